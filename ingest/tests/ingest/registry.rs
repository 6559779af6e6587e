//! A schema registry for tests: what a real one answers, from memory, and its failures.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

#[derive(Default)]
struct State {
    /// What `/schemas/ids/N` answers.
    by_id: Mutex<HashMap<u32, Value>>,
    /// What `/subjects/S/versions/V` answers, by that path.
    by_path: Mutex<HashMap<String, Value>>,
    asked: AtomicU32,
    /// Connections that are closed without an answer.
    unanswered: AtomicU32,
    authorization: Mutex<Option<String>>,
}

/// Answers until the process ends.
pub struct FakeRegistry {
    pub url: String,
    state: Arc<State>,
}

impl FakeRegistry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let served = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&served, stream.unwrap());
            }
        });
        Self { url, state }
    }

    /// An Avro schema under an id.
    pub fn put(&self, id: u32, schema: &str) {
        self.put_raw(id, json!({"schema": schema}));
    }

    /// An answer under an id.
    pub fn put_raw(&self, id: u32, answer: Value) {
        self.state.by_id.lock().unwrap().insert(id, answer);
    }

    /// An answer under a path.
    pub fn put_path(&self, path: &str, answer: Value) {
        self.state
            .by_path
            .lock()
            .unwrap()
            .insert(path.into(), answer);
    }

    /// Questions so far.
    pub fn asked(&self) -> u32 {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// Leaves the next questions without an answer.
    pub fn leave_unanswered(&self, questions: u32) {
        self.state.unanswered.store(questions, Ordering::SeqCst);
    }

    /// Wants this `Authorization` from now on.
    pub fn want(&self, authorization: &str) {
        *self.state.authorization.lock().unwrap() = Some(authorization.into());
    }
}

fn serve(state: &State, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length, mut authorization) = (String::new(), 0, None);
    if reader.read_line(&mut request).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    state.asked.fetch_add(1, Ordering::SeqCst);
    let left = &state.unanswered;
    if left
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
    {
        return;
    }
    let wanted = state.authorization.lock().unwrap().clone();
    let (status, answer) = if wanted.is_some() && wanted != authorization {
        (
            "401 Unauthorized",
            json!({"error_code": 401, "message": "Unauthorized"}),
        )
    } else {
        answer(state, request.split(' ').nth(1).unwrap_or_default())
    };
    let answer = answer.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
}

fn answer(state: &State, path: &str) -> (&'static str, Value) {
    let path = path.split('?').next().unwrap_or_default();
    let id = path
        .strip_prefix("/schemas/ids/")
        .and_then(|id| id.parse().ok());
    let found = match id {
        Some(id) => state.by_id.lock().unwrap().get(&id).cloned(),
        None => state.by_path.lock().unwrap().get(path).cloned(),
    };
    match found {
        Some(found) => ("200 OK", found),
        None => (
            "404 Not Found",
            json!({"error_code": 40403, "message": "Schema not found"}),
        ),
    }
}
