//! Where the runtime is, and the report of the checks.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

pub const DEFAULT: &str = "micro-kiki";
pub const FAST: &str = "micro-kiki-fast";
pub const BASE: &str = "micro-kiki-base";
pub const EMBEDDER: &str = "all-mpnet-base-v2";
pub const QUESTION: &str = "What is the capital of France?";
pub const STORY: &str = "Write a long story about a village by a river.";

/// What a check ends with: nothing, or what went wrong.
pub type Checked = Result<(), String>;

static REPORT: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

pub fn url() -> String {
    format!("{}/v1", variable("RUNTIME_URL"))
}

pub fn key() -> String {
    variable("RUNTIME_KEY")
}

/// Run the check and note its outcome under the name; with arguments only the checks that they name.
pub async fn check(name: &str, run: impl Future<Output = Checked>) {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if !wanted.is_empty() && !wanted.iter().any(|want| want == name) {
        return;
    }
    let started = Instant::now();
    let outcome = match tokio::time::timeout(Duration::from_secs(60), run).await {
        Ok(outcome) => outcome,
        Err(_) => Err("it took longer than 60 s".into()),
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{seconds:6.2} s  {name}: {}", outcome.as_ref().err().map_or("held", |problem| problem));
    REPORT.lock().unwrap().insert(name.into(), outcome.err().map_or(Value::Null, Value::String));
}

/// Print the report.
pub fn finish() {
    println!("{}", json!(*REPORT.lock().unwrap()));
}

/// Ends a check whose JSON text has other keys.
pub fn expect_keys(text: &Value, keys: &[&str]) -> Checked {
    let given = text.as_str().ok_or(format!("no text: {text}"))?;
    let values: BTreeMap<String, Value> = serde_json::from_str(given).map_err(|error| format!("{given:?}: {error}"))?;
    if values.keys().map(String::as_str).collect::<Vec<_>>() == keys {
        Ok(())
    } else {
        Err(format!("{given:?} has other keys than {keys:?}"))
    }
}

/// Have the newest turn cancelled: its stream ends in an error.
pub fn cancel_turn() -> Checked {
    request("POST", &variable("CANCEL_URL")).map(|_| ())
}

/// Wait until no turn is in flight, at most five seconds.
pub async fn idle() -> Checked {
    let mut health = String::new();
    for _ in 0..50 {
        health = request("GET", &format!("{}/health", variable("RUNTIME_URL")))?;
        let state: Value = serde_json::from_str(&health).map_err(|error| error.to_string())?;
        if state["turns_in_flight"] == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("turns still run: {health}"))
}

/// The body of a reply over a connection of its own.
fn request(method: &str, address: &str) -> Result<String, String> {
    let (host, path) = address.trim_start_matches("http://").split_once('/').ok_or("no path")?;
    let mut connection = TcpStream::connect(host).map_err(|error| error.to_string())?;
    let head = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).map_err(|error| error.to_string())?;
    Ok(reply.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into()))
}
