// A schema registry that no one here wrote: franz-go's, in memory, with Confluent's REST interface.
// Prints its address and runs until its standard input ends. With a certificate and its key it answers
// over TLS alone.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"github.com/twmb/franz-go/pkg/sr/srfake"
)

func main() {
	authorization := flag.String("authorization", "", "what it demands in the header of that name")
	certificate := flag.String("certificate", "", "a PEM file")
	key := flag.String("key", "", "a PEM file")
	flag.Parse()
	var options []srfake.Option
	if *authorization != "" {
		options = append(options, srfake.WithAuth(*authorization))
	}
	address := srfake.New(options...).URL()
	if *certificate != "" {
		address = overTLS(address, *certificate, *key)
	}
	fmt.Println(address)
	io.Copy(io.Discard, os.Stdin)
}

func overTLS(address, certificate, key string) string {
	target, err := url.Parse(address)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		log.Fatal(http.ServeTLS(listener, httputil.NewSingleHostReverseProxy(target), certificate, key))
	}()
	return "https://" + listener.Addr().String()
}
