// A schema registry that no one here wrote: franz-go's, in memory, with Confluent's REST interface.
// Prints its address and runs until its standard input ends. An argument is what it demands in the
// header Authorization.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/twmb/franz-go/pkg/sr/srfake"
)

func main() {
	var options []srfake.Option
	if len(os.Args) > 1 {
		options = append(options, srfake.WithAuth(os.Args[1]))
	}
	fmt.Println(srfake.New(options...).URL())
	io.Copy(io.Discard, os.Stdin)
}
