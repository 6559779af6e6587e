//! A schema registry with Confluent's REST interface.
//!
//! Two kinds of failure are kept apart. That an id has no schema is an answer, and the fault of
//! whoever wrote the record. That there is no answer is nobody's fault who is in the stream: it is
//! asked again, ever more slowly, and then the source fails, so that nothing is lost.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use reqwest::Certificate;
use schema_registry_converter::blocking::schema_registry::{
    SrSettings, get_referenced_schema, get_schema_by_id, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{
    RawError, RegisteredReference, SchemaType, SuppliedSchema,
};

use crate::IngestError;

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Schemas that one schema may refer to, directly or not.
const REFERENCES_MAX: usize = 256;

/// Where a registry is and who asks it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Addresses, comma-separated; the next is asked where one does not answer.
    pub url: String,
    /// User, where it wants one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Certificates, as PEM, that are trusted beside the system's: see [`Self::trusting`].
    pub authorities: Option<Vec<u8>>,
    /// How long an unanswered question is repeated: well within the time after which a consumer
    /// that does not poll loses its partitions.
    pub give_up_after: Duration,
}

impl RegistryOptions {
    /// A registry that anyone may ask.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            authorities: None,
            give_up_after: Duration::from_secs(30),
        }
    }

    /// The same, where the authorities of `pem` are trusted beside the system's.
    ///
    /// # Errors
    /// Why these are no certificates.
    pub fn trusting(self, pem: Vec<u8>) -> Result<Self, String> {
        // Only a client looks into what stands between the lines of a PEM file.
        reqwest::Client::builder()
            .tls_certs_merge(certificates(&pem)?)
            .build()
            .map_err(|error| causes(&error))?;
        Ok(Self {
            authorities: Some(pem),
            ..self
        })
    }
}

/// The certificates of a PEM file, one at least.
fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let certificates = Certificate::from_pem_bundle(pem).map_err(|error| causes(&error))?;
    match certificates.is_empty() {
        true => Err("no certificate".into()),
        false => Ok(certificates),
    }
}

/// An error with all that it was caused by.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RegistryOptions");
        shown
            .field("url", &self.url)
            .field("username", &self.username);
        shown.finish_non_exhaustive()
    }
}

/// An Avro schema as it was registered.
#[derive(Debug)]
pub(crate) struct WrittenSchema {
    pub text: String,
    /// The schemas that it refers to by name.
    pub references: Vec<String>,
}

/// Why an id is of no use.
#[derive(Debug)]
pub(crate) enum NoSchema {
    /// The registry does not know it.
    Unknown,
    /// It is not a schema that records are read by.
    Unusable(String),
}

/// A client of a registry.
#[derive(Debug)]
pub struct Registry {
    url: String,
    settings: SrSettings,
    give_up_after: Duration,
}

impl Registry {
    /// A client. Asks nothing yet.
    pub fn new(options: &RegistryOptions) -> Result<Self, IngestError> {
        let mut urls = options
            .url
            .split(',')
            .map(|url| url.trim().trim_end_matches('/'));
        let first = urls.next().unwrap_or_default();
        let mut builder = SrSettings::new_builder(first.into());
        for url in urls {
            builder.add_url(url.into());
        }
        if let Some(username) = &options.username {
            builder.set_basic_authorization(username, options.password.as_deref());
        }
        let failed = |message: String, cure| IngestError::Registry {
            url: options.url.clone(),
            action: "making a client".into(),
            message,
            cure,
        };
        let mut client = reqwest::blocking::Client::builder();
        if let Some(pem) = &options.authorities {
            let authorities = certificates(pem).map_err(|why| {
                failed(why, "write certificates as PEM into kafka.registry.ca_file")
            })?;
            client = client.tls_certs_merge(authorities);
        }
        let settings = builder.set_timeout(ANSWER_WITHIN).build_with(client);
        let settings = settings.map_err(|error| {
            failed(
                said(&error),
                "write its address as http://host:port under kafka.registry.url",
            )
        })?;
        Ok(Self {
            url: options.url.clone(),
            settings,
            give_up_after: options.give_up_after,
        })
    }

    /// The Avro schema with an id, and those that it refers to.
    pub(crate) fn schema(&self, id: u32) -> Result<Result<WrittenSchema, NoSchema>, IngestError> {
        let action = format!("asking for schema {id}");
        let found = match self.ask(&action, || get_schema_by_id(id, &self.settings))? {
            Ok(found) => found,
            Err(Refused::Unknown(_)) => return Ok(Err(NoSchema::Unknown)),
            Err(Refused::Other(message)) => return Ok(Err(NoSchema::Unusable(message))),
        };
        if found.schema_type != SchemaType::Avro {
            let message = format!("it is of type {:?}, not Avro", found.schema_type);
            return Ok(Err(NoSchema::Unusable(message)));
        }
        let mut references = Vec::new();
        let mut seen: Vec<RegisteredReference> = Vec::new();
        let mut wanted = found.references;
        while let Some(reference) = wanted.pop() {
            if seen.contains(&reference) {
                continue;
            }
            if seen.len() == REFERENCES_MAX {
                let message = format!("it refers to more than {REFERENCES_MAX} schemas");
                return Ok(Err(NoSchema::Unusable(message)));
            }
            let action = format!(
                "asking for {}, to which schema {id} refers",
                reference.subject
            );
            let referred = self.ask(&action, || {
                get_referenced_schema(&self.settings, &reference)
            })?;
            match referred {
                Ok(referred) => {
                    wanted.extend(referred.references);
                    references.push(referred.schema);
                    seen.push(reference);
                }
                Err(Refused::Unknown(message) | Refused::Other(message)) => {
                    let message = format!("it refers to {}: {message}", reference.subject);
                    return Ok(Err(NoSchema::Unusable(message)));
                }
            }
        }
        Ok(Ok(WrittenSchema {
            text: found.schema,
            references,
        }))
    }

    /// Registers an Avro schema under a subject, where it may be already: its id.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses the schema.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, IngestError> {
        let action = format!("registering the schema of {subject}");
        let supplied = || SuppliedSchema::new(None, SchemaType::Avro, schema.into());
        let registered = self.ask(&action, || {
            post_schema(&self.settings, subject.into(), supplied())
        })?;
        match registered {
            Ok(registered) => Ok(registered.id),
            Err(Refused::Unknown(message) | Refused::Other(message)) => {
                Err(IngestError::Registry {
                    url: self.url.clone(),
                    action,
                    message,
                    cure: "compare with the schema that is registered under the subject, and \
                           with the subject's compatibility level",
                })
            }
        }
    }

    /// Asks until there is an answer, or for too long.
    fn ask<T>(
        &self,
        action: &str,
        question: impl Fn() -> Result<T, SRCError>,
    ) -> Result<Result<T, Refused>, IngestError> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        let failed = |message: String, cure| IngestError::Registry {
            url: self.url.clone(),
            action: action.into(),
            message,
            cure,
        };
        loop {
            let error = match question() {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => error,
            };
            let message = said(&error);
            match Fault::of(&error) {
                Fault::Asked(refused) => return Ok(Err(refused)),
                Fault::Permission => {
                    return Err(failed(
                        message,
                        "check kafka.registry.username and its password",
                    ));
                }
                Fault::NotARegistry => {
                    return Err(failed(
                        message,
                        "check kafka.registry.url: something answers there, but not as a registry",
                    ));
                }
                Fault::NotTrusted => {
                    return Err(failed(
                        message,
                        "name a PEM file of the authority that signed its certificate under kafka.registry.ca_file; \
                         the certificate must be made out to the host in kafka.registry.url",
                    ));
                }
                Fault::NoAnswer if began.elapsed() >= self.give_up_after => {
                    return Err(failed(
                        message,
                        "start the registry or correct kafka.registry.url, then start again: \
                         nothing that was read since the last commit is lost",
                    ));
                }
                Fault::NoAnswer => {
                    tracing::warn!(
                        registry = %self.url, error = %message,
                        "{action}: no answer; trying again"
                    );
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// An answer that is not the one wanted.
#[derive(Debug)]
enum Refused {
    /// Not found.
    Unknown(String),
    Other(String),
}

/// Whose fault a failed question is.
enum Fault {
    /// The question's: what was asked for is not there, or not allowed by the registry's rules.
    Asked(Refused),
    Permission,
    NotARegistry,
    /// Its certificate is not one to be trusted.
    NotTrusted,
    NoAnswer,
}

impl Fault {
    fn of(error: &SRCError) -> Self {
        let raw = error
            .source()
            .and_then(|source| source.downcast_ref::<RawError>());
        let Some(raw) = raw else {
            // OpenSSL's own words: the error of the client does not tell apart why there is no connection.
            if said(error).contains("certificate verify failed") {
                return Fault::NotTrusted;
            }
            return match error.retriable {
                true => Fault::NoAnswer,
                false => Fault::NotARegistry,
            };
        };
        // A registry's own codes are of five digits, the first three of which are HTTP's; what
        // stands before it may answer with less.
        let code = match raw.error_code {
            code @ 10_000.. => code / 100,
            0 => status_of(&error.error),
            code => code,
        };
        match (code, raw.error_code) {
            (401 | 403, _) => Fault::Permission,
            (404, 0) => Fault::NotARegistry,
            (404, _) => Fault::Asked(Refused::Unknown(raw.message.clone())),
            (400..=499, 0) => Fault::NotARegistry,
            (408 | 429, _) => Fault::NoAnswer,
            (400..=499, _) => Fault::Asked(Refused::Other(raw.message.clone())),
            _ => Fault::NoAnswer,
        }
    }
}

/// The HTTP status in the client's own words, which is the only place where it stands.
fn status_of(error: &str) -> u32 {
    let mut words = error.split_whitespace();
    words.find_map(|word| word.parse().ok()).unwrap_or(0)
}

fn said(error: &SRCError) -> String {
    let raw = error
        .source()
        .and_then(|source| source.downcast_ref::<RawError>());
    match raw {
        Some(raw) if raw.error_code != 0 => format!("{} ({})", raw.message, raw.error_code),
        Some(_) => error.error.clone(),
        None => {
            // The innermost says why: that the connection was refused, and not that a request
            // failed.
            let mut innermost = error.source();
            while let Some(inner) = innermost.and_then(|error| error.source()) {
                innermost = Some(inner);
            }
            match innermost {
                Some(innermost) => format!("{}: {innermost}", error.error),
                None => error.error.clone(),
            }
        }
    }
}
