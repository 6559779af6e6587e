//! A look at the live state: asked over the health port, cut between two batches, and read by a thread
//! that lets all others go first.
//!
//! The cut takes references to pages, as a checkpoint does; a page that the fold then writes to is copied
//! first, for as long as the query lasts. One query at a time. Only who asks from this machine is
//! answered: the state holds what events held.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use crossbeam_channel::bounded;
use sanderling_schemas::Relation;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::lanes::Lanes;
use super::priority::yield_to_others;
use crate::failure::Failure;
use crate::line::{Feeder, Input, Look};
use crate::state_query::{About, Answer, LaneView, PATH, run};

/// Longest wait for the line to bring a look to its end.
const CUT_WITHIN: Duration = Duration::from_secs(10);
/// Rows of one answer at most.
const ROWS_MAX: usize = 100_000;

/// What is asked.
#[derive(Deserialize)]
struct Question {
    pipeline: String,
    sql: String,
    limit: usize,
}

/// What can be asked about.
pub struct LiveState {
    pipeline: String,
    relation: Arc<Relation>,
    lanes: Arc<Lanes>,
    /// The line's entry while there is one; it is not kept open for this.
    feeder: Mutex<Weak<Feeder>>,
    /// Held by the query that is being answered.
    asking: Mutex<()>,
}

impl LiveState {
    /// The state of `pipeline`, once [`LiveState::fed_by`] has said where it is.
    pub fn new(pipeline: &str, relation: Arc<Relation>, lanes: Arc<Lanes>) -> Self {
        Self {
            pipeline: pipeline.into(),
            relation,
            lanes,
            feeder: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// The line is there.
    pub fn fed_by(&self, feeder: Weak<Feeder>) {
        *self.feeder.lock().unwrap_or_else(PoisonError::into_inner) = feeder;
    }

    /// What the health port serves of it.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new().route(PATH, post(answer)).with_state(self)
    }

    fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        if question.pipeline != self.pipeline {
            return Err(Failure::new(
                "query",
                format!(
                    "this service runs {}, not {}",
                    self.pipeline, question.pipeline
                ),
            )
            .cure("name the health port of the service that is meant with --at HOST:PORT"));
        }
        let _one = self.asking.try_lock().map_err(|_| {
            Failure::new("query", "another query is being answered")
                .cure("ask again when it is done")
        })?;
        let lanes = self.look()?;
        let limit = question.limit.min(ROWS_MAX);
        let about = About::of("live", &self.pipeline);
        run(&question.sql, limit, &self.relation, lanes, about)
    }

    /// Cuts every lane between two of its batches.
    fn look(&self) -> Result<Vec<(LaneView, u64)>, Failure> {
        let not_now = |why: &str| {
            Failure::new("query", why)
                .cure("ask again in a moment: /readyz says what it waits for; or ask its newest checkpoint with --checkpoint")
        };
        let feeder = self
            .feeder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade();
        let feeder = feeder.ok_or_else(|| not_now("the service is not live yet, or no longer"))?;
        let all = self.lanes.all();
        let (told, looks) = bounded(all.len().max(1));
        for lane in &all {
            let look = Look::new(*lane, told.clone());
            if !feeder.send(Input::Look(look)) {
                return Err(not_now("the service is ending"));
            }
        }
        drop((feeder, told));
        let mut views = Vec::new();
        for _ in &all {
            let Ok(look) = looks.recv_timeout(CUT_WITHIN) else {
                return Err(not_now(
                    "the service does not get to it: it is behind its input",
                ));
            };
            // A lane may have been given up meanwhile.
            if let Some((windows, rows)) = look.windows {
                let windows = windows.map_err(|e| Failure::new("query", e.to_string()))?;
                let view = LaneView {
                    lane: look.lane,
                    windows,
                    memories: look.memories,
                };
                views.push((view, rows));
            }
        }
        match views.is_empty() {
            true => Err(not_now("no partition is live here yet")),
            false => Ok(views),
        }
    }
}

async fn answer(
    State(state): State<Arc<LiveState>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !from.ip().to_canonical().is_loopback() {
        let refused = Failure::new("query", "only who asks from the service's own machine is answered")
            .cure("run `sanderling state query` there, in the container: docker-compose exec, kubectl exec");
        return refusal(StatusCode::FORBIDDEN, &refused);
    }
    // A page in a browser cannot send this without being asked whether it may.
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v == "application/json");
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) if is_json => question,
        _ => {
            let refused = Failure::new(
                "query",
                "the question is not JSON of pipeline, sql and limit",
            )
            .cure("ask with `sanderling state query PIPELINE \"select ...\"`");
            return refusal(StatusCode::BAD_REQUEST, &refused);
        }
    };
    let (tell, told) = oneshot::channel();
    let spawned = thread::Builder::new().name("query".into()).spawn(move || {
        yield_to_others();
        let _ = tell.send(state.answer(&question).and_then(|answer| answer.to_bytes()));
    });
    let answered = match spawned {
        Ok(_) => told
            .await
            .unwrap_or_else(|_| Err(Failure::new("query", "the query has failed"))),
        Err(e) => Err(Failure::new("query", e.to_string())),
    };
    match answered {
        Ok(bytes) => {
            let arrow = [(header::CONTENT_TYPE, "application/vnd.apache.arrow.stream")];
            (arrow, bytes).into_response()
        }
        Err(failure) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &failure),
    }
}

fn refusal(status: StatusCode, failure: &Failure) -> Response {
    let body = serde_json::json!(failure).to_string();
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body).into_response()
}
