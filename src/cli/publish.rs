//! `tidings publish`: a job update from a shell or a cron job.

use std::time::Duration;

use clap::Args;
use serde_json::Map;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::client;
use crate::config::Config;
use crate::jobs::JobUpdate;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The job's id
    job: String,
    /// queued, running, completed, failed, …
    #[arg(long)]
    status: String,
    /// 0 to 100
    #[arg(long)]
    progress: Option<f64>,
    /// A sentence for people
    #[arg(long)]
    message: Option<String>,
    /// A word for programs, with --error-message
    #[arg(long, requires = "error_message")]
    error_code: Option<String>,
    /// A sentence for people, with --error-code
    #[arg(long, requires = "error_code")]
    error_message: Option<String>,
    /// A JSON object
    #[arg(long)]
    data: Option<String>,
    /// Number of the attempt
    #[arg(long)]
    attempt: Option<u64>,
    /// Number within the attempt
    #[arg(long)]
    seq: Option<u64>,
    /// The same id is applied once
    #[arg(long)]
    update_id: Option<String>,
    /// Post to this service instead of publishing on `REDIS_URL`
    #[arg(long)]
    url: Option<String>,
    /// Key for posting; default: the first of `API_KEYS`
    #[arg(long)]
    api_key: Option<String>,
    /// Add to the Redis stream, which waits for a service, instead of publishing
    #[arg(long, conflicts_with = "url")]
    durable: bool,
}

pub(super) async fn run(config: Config, options: Options) -> Result<(), Failure> {
    let body = body(&options)?;
    JobUpdate::parse(body.as_bytes(), None)
        .map_err(|reject| Failure::settings(format!("the update is not valid: {}", reject.as_str())))?;
    if options.durable && config.redis_url.expose().is_empty() {
        return Err(Failure::settings("--durable: the stream is in Redis; set REDIS_URL"));
    }
    if options.url.is_some() || config.redis_url.expose().is_empty() {
        post(&config, &options, body).await
    } else {
        to_redis(&config, options.durable, &body).await
    }
}

fn body(options: &Options) -> Result<String, Failure> {
    let mut update = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            update.insert(name.to_owned(), value);
        }
    };
    put("jobId", Some(options.job.as_str().into()));
    put("status", Some(options.status.as_str().into()));
    put("progress", options.progress.map(Value::from));
    put("message", options.message.as_deref().map(Value::from));
    if let (Some(code), Some(message)) = (&options.error_code, &options.error_message) {
        put("error", Some(serde_json::json!({ "code": code, "message": message })));
    }
    let data = options.data.as_deref().map(serde_json::from_str).transpose();
    put("data", data.map_err(|error| Failure::settings(format!("--data: {error}")))?);
    put("attempt", options.attempt.map(Value::from));
    put("seq", options.seq.map(Value::from));
    put("updateId", options.update_id.as_deref().map(Value::from));
    Ok(Value::Object(update).to_string())
}

async fn post(config: &Config, options: &Options, body: String) -> Result<(), Failure> {
    let base = client::base_url(config, options.url.as_deref());
    let own = || config.api_keys.first().map(|key| key.expose().to_owned());
    let key = options.api_key.clone().or_else(own);
    let key = key.ok_or_else(|| {
        Failure::settings("no key: give --api-key, or set API_KEYS, or REDIS_URL to publish on Redis")
    })?;
    let request = client::http()?
        .post(format!("{base}/v1/jobs/{}/updates", options.job))
        .header("authorization", format!("ApiKey {key}"))
        .header("content-type", "application/json")
        .timeout(Duration::from_secs(10))
        .body(body);
    let answer = request
        .send()
        .await
        .map_err(|error| Failure::unavailable(format!("can't reach {base}: {}", client::innermost(&error))))?;
    let good = answer.status().is_success();
    let text = answer.text().await.unwrap_or_default();
    if good {
        println!("{text}");
        return Ok(());
    }
    Err(Failure { line: text, code: 1 })
}

async fn to_redis(config: &Config, durable: bool, body: &str) -> Result<(), Failure> {
    let away = |error: redis::RedisError| Failure::unavailable(format!("REDIS_URL: {error}"));
    let client = redis::Client::open(config.redis_url.expose()).map_err(away)?;
    let settings = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(3)))
        .set_response_timeout(Some(Duration::from_secs(5)));
    let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await.map_err(away)?;
    let channel = &config.job_updates_channel;
    if durable {
        let mut add = redis::cmd("XADD");
        add.arg(channel).arg("*").arg("data").arg(body);
        let id: String = add.query_async(&mut connection).await.map_err(away)?;
        println!("{id}");
        return Ok(());
    }
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(channel).arg(body);
    let heard: i64 = publish.query_async(&mut connection).await.map_err(away)?;
    println!("heard by {heard}");
    if heard > 0 {
        Ok(())
    } else {
        Err(Failure { line: "nobody heard it: no service is running; --durable waits for one".to_owned(), code: 1 })
    }
}
