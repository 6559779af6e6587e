//! How records are encoded: formats, schemas and the registry.

use std::path::Path;

use sanderling_ingest::{Format, Framing, IngestError, ProtobufSchema, RegistryOptions};

use super::Resolver;
use crate::failure::{Failure, io_failure};
use crate::settings::{self, OutputFormat, Settings};

impl Resolver<'_> {
    /// The registry, which Avro cannot do without.
    pub(super) fn registry(&mut self, settings: &Settings) -> Option<RegistryOptions> {
        const CURE: &str = "write kafka: {registry: {url: \"http://host:8081\"}}";
        let Some(registry) = &settings.kafka.registry else {
            for (name, stream) in &settings.streams.0 {
                if stream.format == settings::Format::Avro {
                    self.fault(
                        &["streams", name, "format"],
                        "the schemas of Avro records come from a registry, and none is named",
                        CURE,
                    );
                }
            }
            if settings.output.format == OutputFormat::Avro {
                self.fault(
                    &["output", "format"],
                    "the schema of Avro decisions goes to a registry, and none is named",
                    CURE,
                );
            }
            return None;
        };
        let web = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if !registry.url.split(',').all(|url| web(url.trim())) {
            self.fault(
                &["kafka", "registry", "url"],
                format!("`{}` is not the address of a registry", registry.url),
                "write http://host:port or https://host:port; several with commas between",
            );
        }
        let mut password = None;
        if let Some(file) = &registry.password_file {
            if registry.username.is_none() {
                self.fault(
                    &["kafka", "registry", "password_file"],
                    "a password without a user",
                    "write `username` beside it",
                );
            }
            let text = self.registry_file(file, "password_file", "read the registry's password");
            password = text.map(|text| text.trim_end_matches(['\r', '\n']).to_string());
        }
        let options = RegistryOptions {
            username: registry.username.clone(),
            password,
            ..RegistryOptions::new(&registry.url)
        };
        let Some(file) = &registry.ca_file else {
            return Some(options);
        };
        let pem = self.registry_file(file, "ca_file", "read the registry's authorities")?;
        match options.trusting(pem.into_bytes()) {
            Ok(options) => Some(options),
            Err(why) => {
                self.fault(
                    &["kafka", "registry", "ca_file"],
                    format!("{} is not a file of certificates: {why}", file.display()),
                    "write the authorities' certificates into it as PEM",
                );
                None
            }
        }
    }

    /// The text of a file that a key of the registry names; `None` if it cannot be read, which is a fault.
    fn registry_file(&mut self, file: &Path, key: &str, action: &str) -> Option<String> {
        let file = self.beside(file);
        match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) => {
                let failure = io_failure(&file, action, &error);
                let cure = failure.cure.clone().unwrap_or_default();
                self.fault(&["kafka", "registry", key], failure.to_string(), cure);
                None
            }
        }
    }

    /// The format of a stream's records; `None` if there is a fault in it.
    pub(super) fn format(
        &mut self,
        name: &str,
        stream: &settings::StreamSettings,
        registry: Option<&RegistryOptions>,
    ) -> Option<Format> {
        match (stream.format, &stream.schema) {
            (settings::Format::Json, None) => Some(Format::Json),
            (settings::Format::Avro, None) => registry.cloned().map(Format::Avro),
            (settings::Format::Json | settings::Format::Avro, Some(_)) => {
                self.fault(
                    &["streams", name, "schema"],
                    "only Protobuf records are read by a schema of the pipeline",
                    "write format: protobuf, or leave `schema` out: JSON needs none, and Avro's \
                     come from the registry",
                );
                None
            }
            (settings::Format::Protobuf, None) => {
                self.fault(
                    &["streams", name, "format"],
                    "Protobuf records cannot be read without their schema",
                    "write schema: {file: payment.proto, message: package.Message}",
                );
                None
            }
            (settings::Format::Protobuf, Some(schema)) => {
                let framing = match schema.framing {
                    settings::Framing::None => Framing::None,
                    settings::Framing::Confluent => Framing::Confluent,
                };
                let file = self.beside(&schema.file);
                match ProtobufSchema::read(&file, &schema.message) {
                    Ok(schema) => Some(Format::Protobuf(schema, framing)),
                    // The fault lies in the schema's own file.
                    Err(IngestError::Protobuf { path, message }) => {
                        let failure = Failure::new("schema", message).in_file(&path);
                        self.faults.push(failure.cure(
                            "correct the schema, or `file` and `message` under `schema` in \
                             pipeline.yaml",
                        ));
                        None
                    }
                    Err(error) => {
                        let schema = &["streams", name, "schema"];
                        self.fault(schema, error.to_string(), "correct `schema`");
                        None
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resolve::tests::{PAYMENTS, faults, pipeline};

    #[test]
    fn a_format_has_what_it_needs() {
        let avro = PAYMENTS.replace("topic: p", "topic: p, format: avro");
        let found = faults(&avro, &[]);
        assert!(found[0].0.contains("none is named"), "{found:?}");
        assert_eq!(found[0].1, Some(3));
        let found = faults(&format!("{PAYMENTS}output: {{format: avro}}\n"), &[]);
        assert!(found[0].0.contains("Avro decisions"), "{found:?}");
        let named = format!("{avro}kafka: {{registry: {{url: \"http://r:8081\"}}}}\n");
        assert_eq!(faults(&named, &[]), []);
        let no_url = named.replace("http://", "");
        assert!(faults(&no_url, &[])[0].0.contains("r:8081"));
        let password = named.replace("8081\"", "8081\", username: u, password_file: secret");
        assert!(faults(&password, &[])[0].0.contains("secret"));
        let authorities = named.replace("8081\"", "8081\", ca_file: bank.pem");
        assert!(faults(&authorities, &[])[0].0.contains("bank.pem"));
        let found = faults(&authorities, &[("bank.pem", "no certificate")]);
        assert!(
            found[0]
                .0
                .contains("bank.pem is not a file of certificates"),
            "{found:?}"
        );
        assert_eq!(faults(&password, &[("secret", "hidden\n")]), []);
        let resolved = pipeline(&password, &[("secret", "hidden\n")]).unwrap();
        assert_eq!(
            resolved.registry.unwrap().password.as_deref(),
            Some("hidden")
        );
    }

    #[test]
    fn protobuf_is_compiled_and_its_fields_are_looked_for() {
        let protobuf = PAYMENTS.replace("topic: p", "topic: p, format: protobuf");
        assert!(faults(&protobuf, &[])[0].0.contains("without their schema"));
        let schema = "format: protobuf, schema: {file: p.proto, message: P, framing: confluent}";
        let with = protobuf.replace("format: protobuf", schema);
        assert!(faults(&with, &[])[0].0.contains("p.proto"));
        let proto =
            "syntax = \"proto3\"; message P { string id = 1; string card = 2; int64 at = 3; }";
        assert_eq!(faults(&with, &[("p.proto", proto)]), []);
        let found = faults(&with, &[("p.proto", &proto.replace("card", "karte"))]);
        assert!(found[0].0.contains("no field card"), "{found:?}");
        assert_eq!(found[0].1, Some(3));
        let json = with.replace("format: protobuf", "format: json");
        assert!(
            faults(&json, &[("p.proto", proto)])[0]
                .0
                .contains("only Protobuf")
        );
    }
}
