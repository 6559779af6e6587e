//! The health port: `/livez`, `/readyz` and `/metrics`, for whoever watches the service.
//!
//! A thread of its own with a runtime of its own, so that a busy line delays no answer and a slow
//! asker delays no decision. What it tells is in [`HealthState`], which the feeder writes.
//!
//! Alive means that the feeder still turns; an orchestrator may restart what is not. Ready means
//! assigned, restored and deciding events as they come. Whoever serves may answer more there, as `run`
//! does for `sanderling state query`.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::telemetry::{CONTENT_TYPE, Metrics};

/// A feeder that has not turned for so long is stuck. Longer than any wait for the broker that
/// ends by itself.
const HEARTBEAT_WITHIN: Duration = Duration::from_secs(60);

/// What the service says of itself.
pub struct HealthState {
    begun: Instant,
    /// Milliseconds after `begun`.
    heartbeat_ms: AtomicU64,
    phase: Mutex<Phase>,
}

enum Phase {
    Starting(String),
    Live,
    Draining,
}

impl Default for HealthState {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthState {
    /// A service that has just begun.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            heartbeat_ms: AtomicU64::new(0),
            phase: Mutex::new(Phase::Starting("starting".into())),
        }
    }

    /// The feeder turns: to be called at each of its turns, also while restoring.
    pub fn heartbeat(&self) {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        self.heartbeat_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Not ready yet, or no longer, and why: "waiting for partitions", "restoring lane 3".
    pub fn starting(&self, reason: impl Into<String>) {
        self.heartbeat();
        let reason = reason.into();
        tracing::info!("not ready: {reason}");
        *self.phase() = Phase::Starting(reason);
    }

    /// Events are decided as they come.
    pub fn live(&self) {
        self.heartbeat();
        *self.phase() = Phase::Live;
    }

    /// What was read is finished; nothing more is read.
    pub fn draining(&self) {
        self.heartbeat();
        *self.phase() = Phase::Draining;
    }

    /// Why the service is not ready; `None` if it is.
    pub fn not_ready(&self) -> Option<String> {
        match &*self.phase() {
            Phase::Starting(reason) => Some(reason.clone()),
            Phase::Live => None,
            Phase::Draining => Some("draining: what was read is finished, then it stops".into()),
        }
    }

    /// Time since the feeder last turned.
    pub fn heartbeat_age(&self) -> Duration {
        let at = Duration::from_millis(self.heartbeat_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(at)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running health port. It stops when dropped.
pub struct HealthServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HealthServer {
    /// Where it listens; the port that was chosen, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A server that has gone needs no telling.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves `metrics`, `state` and what `more` answers at `listen`, which is `host:port`.
///
/// # Errors
/// An address that cannot be listened at, with its cure.
pub fn serve(
    listen: &str,
    metrics: Arc<Metrics>,
    state: Arc<HealthState>,
    more: Router,
) -> Result<HealthServer, Failure> {
    let listener = bind(listen).map_err(|e| refusal(listen, &e))?;
    let address = listener.local_addr().map_err(|e| refusal(listen, &e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| refusal(listen, &e))?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("health".into())
        .spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // To stop is to leave: an asker that never ends its question is not waited for.
                let routes = routes(metrics, state).merge(more);
                let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
                tokio::select! {
                    served = axum::serve(listener, routes) => served,
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the health port is closed");
            }
        })
        .map_err(|e| refusal(listen, &e))?;
    tracing::info!(%address, "health port open: /livez /readyz /metrics");
    Ok(HealthServer {
        address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn bind(listen: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = listen.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(addresses.as_slice())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn refusal(listen: &str, error: &io::Error) -> Failure {
    let (what, cure) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "another program listens there".to_string(),
            "stop it, or choose another port: --set health.listen=127.0.0.1:0 takes a free one and logs it",
        ),
        io::ErrorKind::PermissionDenied => (
            "this user may not".to_string(),
            "choose a port from 1024 on with health.listen",
        ),
        _ => (
            error.to_string(),
            "write health.listen as host:port, an address of this machine, such as 127.0.0.1:9464 or 0.0.0.0:9464",
        ),
    };
    Failure::new("health", format!("cannot listen at {listen}: {what}")).cure(cure)
}

fn routes(metrics: Arc<Metrics>, state: Arc<HealthState>) -> Router {
    let alive = state.clone();
    let ready = state.clone();
    Router::new()
        .route("/livez", get(move || async move { livez(&alive) }))
        .route("/readyz", get(move || async move { readyz(&ready) }))
        .route(
            "/metrics",
            get(move || async move {
                let text = metrics.render(state.not_ready().is_none());
                ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
            }),
        )
}

fn livez(state: &HealthState) -> Response {
    let age = state.heartbeat_age();
    let alive = age < HEARTBEAT_WITHIN;
    answer(
        alive,
        &json!({"alive": alive, "heartbeat_age_ms": age.as_millis() as u64}),
    )
}

fn readyz(state: &HealthState) -> Response {
    let reason = state.not_ready();
    answer(
        reason.is_none(),
        &json!({"ready": reason.is_none(), "reason": reason}),
    )
}

fn answer(good: bool, body: &serde_json::Value) -> Response {
    let status = match good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_string();
        (status, body)
    }

    fn service() -> (Arc<HealthState>, HealthServer) {
        let state = Arc::new(HealthState::new());
        let server = serve(
            "127.0.0.1:0",
            Arc::new(Metrics::new()),
            state.clone(),
            Router::new(),
        )
        .unwrap();
        (state, server)
    }

    #[test]
    fn ready_only_while_live() {
        let (state, server) = service();
        let ready = || ask(server.address(), "/readyz");
        state.starting("restoring lane 3");
        let (status, body) = ready();
        assert_eq!(status, 503);
        assert!(body.contains("\"reason\":\"restoring lane 3\""), "{body}");
        state.live();
        assert_eq!(ready(), (200, "{\"ready\":true,\"reason\":null}".into()));
        let (status, text) = ask(server.address(), "/metrics");
        assert_eq!(status, 200);
        assert!(text.contains("\nsanderling_live 1\n"), "{text}");
        state.draining();
        assert_eq!(ready().0, 503);
        assert_eq!(ask(server.address(), "/livez").0, 200);
        assert_eq!(ask(server.address(), "/").0, 404);
    }

    #[test]
    fn a_feeder_that_stands_still_is_not_alive() {
        let mut state = HealthState::new();
        assert_eq!(livez(&state).status(), StatusCode::OK);
        // As if it had begun longer ago than a heartbeat may be old.
        state.begun -= HEARTBEAT_WITHIN;
        assert_eq!(livez(&state).status(), StatusCode::SERVICE_UNAVAILABLE);
        state.heartbeat();
        assert_eq!(livez(&state).status(), StatusCode::OK);
    }

    #[test]
    fn a_port_in_use_is_refused_and_a_dropped_server_frees_its_own() {
        let (_, server) = service();
        let address = server.address();
        let again = || {
            serve(
                &address.to_string(),
                Arc::new(Metrics::new()),
                Arc::new(HealthState::new()),
                Router::new(),
            )
        };
        let refused = again().err().unwrap();
        assert_eq!(refused.code, "health");
        assert!(refused.cure.unwrap().contains("health.listen"));
        // An asker that never finishes its question.
        let mut stalled = TcpStream::connect(address).unwrap();
        stalled.write_all(b"GET /readyz HT").unwrap();
        drop(server);
        assert!(again().is_ok());
        let refused = serve(
            "nowhere",
            Arc::new(Metrics::new()),
            Arc::new(HealthState::new()),
            Router::new(),
        );
        assert!(refused.err().unwrap().message.contains("nowhere"));
    }
}
