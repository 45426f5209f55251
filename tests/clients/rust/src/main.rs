//! The client for Rust, async-openai.

mod harness;

use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::responses::{Response, ResponseStreamEvent};
use async_openai::Client;
use futures::StreamExt;
use harness::{
    cancel_turn, check, expect_keys, finish, idle, key, url, Checked, BASE, DEFAULT, EMBEDDER, FAST, QUESTION, STORY,
};
use serde::de::DeserializeOwned;
use serde_json::{json, Value};

fn client() -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(url()).with_api_key(key()))
}

/// A typed request, spelt as JSON.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn text_of<E: std::fmt::Debug>(error: E) -> String {
    format!("{error:?}")
}

fn ask(model: &str, text: &str, tokens: u32, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0.0});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn forced(name: &str, parameters: Option<Value>) -> Value {
    let mut function = json!({"name": name});
    if let Some(schema) = parameters {
        function["parameters"] = schema;
    }
    ask(FAST, "The weather of Paris?", 80, json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required"}))
}

fn nested() -> Value {
    json!({"type": "object", "properties": {"place": {"$ref": "#/$defs/Place"}, "rain": {"type": "boolean"}},
        "required": ["place", "rain"], "$defs": {"Place": {"type": "object", "required": ["city"],
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}}}})
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(problem()) }
}

async fn chat(body: Value) -> Result<Value, String> {
    let completion = client().chat().create(typed(body)?).await.map_err(text_of)?;
    serde_json::to_value(completion).map_err(text_of)
}

fn refusal(error: OpenAIError) -> Result<(u16, String), String> {
    match error {
        OpenAIError::ApiError(reply) => Ok((reply.status_code.as_u16(), reply.api_error.code.unwrap_or_default())),
        other => Err(format!("no typed error: {other:?}")),
    }
}

async fn models() -> Checked {
    let list = client().models().list().await.map_err(text_of)?;
    ensure(list.data.iter().any(|model| model.id == DEFAULT), || format!("{list:?}"))
}

async fn plain_chat() -> Checked {
    let reply = chat(ask(DEFAULT, QUESTION, 24, json!({}))).await?;
    ensure(reply["choices"][0]["message"]["content"].as_str().unwrap_or("").contains("Paris"), || reply.to_string())?;
    ensure(reply["usage"]["completion_tokens"].as_u64().unwrap_or(99) <= 24, || reply["usage"].to_string())
}

async fn stream() -> Checked {
    let body = ask(DEFAULT, QUESTION, 24, json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut chunks = client().chat().create_stream(typed(body)?).await.map_err(text_of)?;
    let (mut text, mut tokens) = (String::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(text_of)?;
        tokens = chunk.usage.map_or(tokens, |usage| usage.completion_tokens);
        chunk.choices.iter().for_each(|choice| text.push_str(choice.delta.content.as_deref().unwrap_or("")));
    }
    ensure(text.contains("Paris") && tokens > 0 && tokens <= 24, || format!("{text:?}, {tokens} tokens"))
}

async fn schema() -> Checked {
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "forecast", "schema": nested()}}});
    let reply = chat(ask(DEFAULT, QUESTION, 80, format)).await?;
    expect_keys(&reply["choices"][0]["message"]["content"], &["place", "rain"])
}

async fn nested_call() -> Checked {
    let reply = chat(forced("forecast", Some(nested()))).await?;
    expect_keys(&reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], &["place", "rain"])
}

async fn empty_call() -> Checked {
    let reply = chat(forced("ping", None)).await?;
    expect_keys(&reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], &[])
}

async fn embeddings() -> Checked {
    let body = json!({"model": EMBEDDER, "input": ["a river", "a village"]});
    let reply = client().embeddings().create(typed(body)?).await.map_err(text_of)?;
    ensure(reply.data.len() == 2 && reply.data[1].embedding.len() == 768, || format!("{} vectors", reply.data.len()))
}

async fn completions() -> Checked {
    let body = json!({"model": BASE, "prompt": "The capital of France is", "max_tokens": 8});
    let reply = client().completions().create(typed(body)?).await.map_err(text_of)?;
    ensure(!reply.choices[0].text.is_empty(), || format!("{reply:?}"))
}

async fn responses() -> Checked {
    let body = json!({"model": FAST, "input": QUESTION, "max_output_tokens": 24, "temperature": 0.0});
    let first: Response = client().responses().create(typed(body)?).await.map_err(text_of)?;
    let text = first.output_text().unwrap_or_default();
    ensure(text.contains("Paris"), || format!("{first:?}"))?;
    let body = json!({"model": FAST, "input": "Why?", "max_output_tokens": 16, "previous_response_id": first.id});
    client().responses().create(typed(body)?).await.map_err(text_of)?;
    let kept = client().responses().retrieve(&first.id).await.map_err(text_of)?;
    ensure(kept.output_text().unwrap_or_default() == text, || format!("{kept:?}"))?;
    client().responses().delete(&first.id).await.map_err(text_of)?;
    Ok(())
}

async fn responses_stream() -> Checked {
    let body = json!({"model": FAST, "input": QUESTION, "max_output_tokens": 24, "temperature": 0.0, "stream": true});
    let mut events = client().responses().create_stream(typed(body)?).await.map_err(text_of)?;
    let (mut text, mut completed) = (String::new(), false);
    while let Some(event) = events.next().await {
        match event.map_err(text_of)? {
            ResponseStreamEvent::ResponseOutputTextDelta(delta) => text.push_str(&delta.delta),
            ResponseStreamEvent::ResponseCompleted(_) => completed = true,
            _ => {}
        }
    }
    ensure(text.contains("Paris") && completed, || format!("{text:?}, completed: {completed}"))
}

async fn errors() -> Checked {
    let request = typed(ask("no-such-model", QUESTION, 4, json!({})))?;
    let (status, code) = refusal(client().chat().create(request).await.err().ok_or("no error")?)?;
    ensure(status == 404 && code == "model_not_found", || format!("{status} {code}"))
}

async fn context() -> Checked {
    let long = "north south east west ".repeat(2500);
    let (status, code) = refusal(client().chat().create(typed(ask(DEFAULT, &long, 4, json!({})))?).await.err().ok_or("no error")?)?;
    ensure(status == 400 && code == "context_length_exceeded", || format!("{status} {code}"))?;
    match client().chat().create_stream(typed(ask(DEFAULT, &long, 4, json!({"stream": true})))?).await {
        Err(_) => Ok(()),
        Ok(mut chunks) => match chunks.next().await {
            Some(Err(_)) => Ok(()),
            other => Err(format!("the stream begins with {other:?}")),
        },
    }
}

async fn late_error() -> Checked {
    let body = ask(FAST, STORY, 500, json!({"stream": true}));
    let mut chunks = client().chat().create_stream(typed(body)?).await.map_err(text_of)?;
    for _ in 0..3 {
        chunks.next().await.ok_or("no chunk")?.map_err(text_of)?;
    }
    cancel_turn()?;
    let mut failed = false;
    while let Some(chunk) = chunks.next().await {
        failed = chunk.is_err();
        if failed {
            break;
        }
    }
    ensure(failed, || "no error".into())?;
    idle().await
}

async fn dropped_stream() -> Checked {
    let body = ask(FAST, STORY, 1000, json!({"stream": true}));
    let mut chunks = client().chat().create_stream(typed(body)?).await.map_err(text_of)?;
    for _ in 0..3 {
        chunks.next().await.ok_or("no chunk")?.map_err(text_of)?;
    }
    drop(chunks);
    idle().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    check("models", models()).await;
    check("chat", plain_chat()).await;
    check("stream with usage", stream()).await;
    check("schema", schema()).await;
    check("forced call of a nested schema", nested_call()).await;
    check("forced call without parameters", empty_call()).await;
    check("embeddings", embeddings()).await;
    check("completions", completions()).await;
    check("responses", responses()).await;
    check("responses from a stream", responses_stream()).await;
    check("typed errors", errors()).await;
    check("prompt too long for a stream", context()).await;
    check("error late in a stream", late_error()).await;
    check("dropped stream leaves no work", dropped_stream()).await;
    finish();
}
