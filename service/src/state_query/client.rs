//! Asking a service that runs.

use std::io::ErrorKind;
use std::time::Duration;

use super::{Answer, WITHIN};
use crate::failure::Failure;
use crate::folder::PipelineFolder;

/// Where the health port takes queries.
pub const PATH: &str = "/state/query";
/// Time beyond a query's own until an answer is given up.
const SLACK: Duration = Duration::from_secs(15);

/// The answer of the service at `at`, or at the pipeline's own health port; `None` if nobody listens.
pub fn ask(
    folder: &PipelineFolder,
    at: Option<&str>,
    sql: &str,
    limit: usize,
) -> Result<Option<Answer>, Failure> {
    let address = at.map_or_else(|| reachable(&folder.settings.health.listen), str::to_string);
    let failed = |e: reqwest::Error| {
        Failure::new("query", format!("asking {address}: {e}"))
            .cure("look at the service's log; or ask its newest checkpoint with --checkpoint")
    };
    let client = reqwest::blocking::Client::builder()
        .no_proxy()
        .timeout(WITHIN + SLACK)
        .build()
        .map_err(failed)?;
    let body = serde_json::json!({"pipeline": folder.name, "sql": sql, "limit": limit});
    let sent = client
        .post(format!("http://{address}{PATH}"))
        .header("content-type", "application/json")
        .body(body.to_string())
        .send();
    let answer = match sent {
        Err(e) if at.is_none() && e.is_connect() && is_refused(&e) => return Ok(None),
        sent => sent.map_err(failed)?,
    };
    let status = answer.status();
    let bytes = answer.bytes().map_err(failed)?;
    if status.is_success() {
        return Answer::from_bytes(&bytes).map(Some);
    }
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |key: &str| said.get(key).and_then(|text| text.as_str());
    let failure = Failure::new(
        "query",
        text("message").map_or_else(
            || format!("{address} answers {status}: it is not a service that can be asked"),
            str::to_string,
        ),
    );
    Err(failure.cure(text("cure").unwrap_or(
        "name the service's health port with --at HOST:PORT, or ask its newest checkpoint with --checkpoint",
    )))
}

/// What to say where a service was to be asked and none is there.
pub fn nobody(folder: &PipelineFolder) -> Failure {
    Failure::new(
        "query",
        format!("no service listens at {}", folder.settings.health.listen),
    )
    .cure("name the health port of the service with --at HOST:PORT, or ask its newest checkpoint with --checkpoint")
}

fn is_refused(e: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::AddrNotAvailable
            );
        }
        cause = error.source();
    }
    false
}

/// The address by which this machine reaches what listens at `listen`.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        assert_eq!(reachable("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(reachable("[::]:9464"), "[::1]:9464");
        assert_eq!(reachable("10.0.0.7:9464"), "10.0.0.7:9464");
    }
}
