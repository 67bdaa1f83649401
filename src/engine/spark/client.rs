//! A session of a Spark Connect server: statements in, Arrow batches out.
//!
//! A statement is sent once, with an operation id of its own. Whatever happens to its stream (the server ends it every few minutes, a
//! proxy drops it), the client attaches to the same operation again from the last response that it has, until the server says that the
//! result is complete; so a statement is never run twice because of a lost answer. Then its responses are released on the server.
//! A server that does not answer at all is told from one that works: calls have deadlines, and a stream on which nothing has come for
//! long is taken for dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use spark_connect_core::channel::ChannelBuilder;
use spark_connect_core::client::SparkConnectClient;
use spark_connect_core::error::SparkError;
use spark_connect_core::reattach::ExecutePlanResponseReattachableIterator;
use spark_connect_core::retries::RetryPolicy;
use spark_connect_proto as proto;
use spark_connect_proto::execute_plan_response::ResponseType;

use super::sql::text;
use super::{Dialect, Patience, shown};

/// Instants as microseconds, not as Spark's INT96, which other readers take for nanoseconds and so cannot tell before 1677 or after 2262.
const SETTINGS: [(&str, &str); 3] = [
    ("spark.sql.session.timeZone", "UTC"),
    ("spark.sql.caseSensitive", "true"),
    ("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS"),
];
/// Times that a stream is taken up again without anything having come.
const REATTACHES: u32 = 20;
/// A stream that lived so long was ended by the server as it does with every long one.
const LIVED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// What refusals of a commit that another writer outran have in them, in small letters: Delta's classes of error, the exceptions of
/// its older versions, and delta-rs's texts, which Sail passes on.
const CONFLICTS: [&str; 8] = [
    "delta_concurrent_",
    "delta_metadata_changed",
    "delta_protocol_changed",
    "concurrentappendexception",
    "concurrentdelete",
    "concurrenttransaction",
    "concurrent transaction",
    "commit conflict",
];
const USER: &str = "etl";
const CLIENT: &str = concat!("silversmith/", env!("CARGO_PKG_VERSION"));

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{remote} is no address of a Spark Connect server (sc://host:port/;key=value;…): {message}")]
    Address { remote: String, message: String },
    #[error(
        "{remote} did not answer within {seconds} s (--remote-answer); is it a Spark Connect server, and use_ssl=true given where it wants TLS?"
    )]
    Silent { remote: String, seconds: u64 },
    #[error("the Spark Connect server {remote} is not to be reached: {message}")]
    Unreachable { remote: String, message: String },
    #[error("the server refused {what}: {message}")]
    Refused { what: &'static str, message: String },
    #[error("another writer of the table was ahead of {what}, every time: {message}")]
    Outrun { what: &'static str, message: String },
    #[error("the server lost {what} half-way ({message}); the next run settles whether it took effect")]
    Lost { what: &'static str, message: String },
    #[error("the server carried {what} out and has lost the answer")]
    Forgotten { what: &'static str },
    #[error("the result of {what} is not readable: {message}")]
    Result { what: &'static str, message: String },
    #[error("the server's session has the time zone {found} and cannot be given UTC; instants would be read wrongly")]
    TimeZone { found: String },
}

impl ClientError {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. } | Self::Refused { .. } | Self::TimeZone { .. } => 2,
            Self::Outrun { .. } => 4,
            Self::Silent { .. } | Self::Unreachable { .. } | Self::Lost { .. } | Self::Forgotten { .. } => 5,
            Self::Result { .. } => 70,
        }
    }

    /// The server understood and would not.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Whether a refusal of a commit says that another writer's was first.
fn is_conflict(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    CONFLICTS.iter().any(|conflict| message.contains(conflict))
}

/// One session; its operations carry `tag`.
pub struct Session {
    client: SparkConnectClient,
    remote: String,
    user: String,
    tag: String,
    dialect: Dialect,
    patience: Patience,
    /// The server's own name for the session: a server that was started anew has another one, without our settings, and refuses.
    there: Mutex<String>,
}

impl std::fmt::Debug for Session {
    // The address may hold a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session, sees that it tells times in UTC, and asks what the server understands.
    pub async fn open(remote: &str, run: &str, patience: Patience) -> Result<Self, ClientError> {
        let shown = shown(remote);
        let address = |error: SparkError| ClientError::Address { remote: shown.clone(), message: error.to_string() };
        // Ended by a semicolon in many a manual.
        let mut channel = ChannelBuilder::parse(remote.trim_end_matches(';')).map_err(address)?;
        if channel.get("user_agent").is_none() {
            channel.set("user_agent", CLIENT);
        }
        // A session is one user's: what sets its time zone and what runs statements must say the same.
        if channel.user_id().is_none() {
            channel.set("user_id", USER);
        }
        let mut client = SparkConnectClient::connect(&channel).await.map_err(address)?;
        // Retries are ours, with a statement that knows what it is.
        client.set_retry_policy(RetryPolicy { max_retries: Some(3), ..RetryPolicy::default() });
        let user = client.user_id().unwrap_or(USER).to_owned();
        let tag = run.rsplit('/').next().unwrap_or(run).replace(',', "-");
        let mut session = Self { client, remote: shown.clone(), user, tag, dialect: Dialect::Spark, patience, there: Mutex::default() };
        let first = tokio::time::timeout(patience.answer, session.prepare()).await;
        first.map_err(|_| ClientError::Silent { remote: shown, seconds: patience.answer.as_secs() })??;
        Ok(session)
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    async fn prepare(&mut self) -> Result<(), ClientError> {
        for (key, value) in SETTINGS {
            if let Err(error) = self.client.set_config(key, value).await {
                let unreachable = is_unreachable(&error);
                if unreachable {
                    return Err(ClientError::Unreachable { remote: self.remote.clone(), message: error.to_string() });
                }
                tracing::warn!(key, %error, "the server does not let this be set");
            }
        }
        let zone = self.texts("the session's time zone", "SELECT current_timezone() AS zone").await?;
        let zone = zone.into_iter().next().flatten().unwrap_or_default();
        if !matches!(zone.as_str(), "UTC" | "Etc/UTC" | "Z" | "GMT" | "Etc/GMT") {
            return Err(ClientError::TimeZone { found: zone });
        }
        let sample = format!("SELECT schema_of_variant(parse_json({})) AS kinds", text("{\"n\":1.5}"));
        let kinds = self.texts("what it understands", &sample).await?;
        let kinds = kinds.into_iter().next().flatten().unwrap_or_default();
        self.dialect = if kinds.contains("DECIMAL") { Dialect::Spark } else { Dialect::Sail };
        Ok(())
    }

    /// The first column of a query, as texts.
    pub async fn texts(&self, what: &'static str, query: &str) -> Result<Vec<Option<String>>, ClientError> {
        use arrow::array::{Array, AsArray};
        let mut texts = Vec::new();
        for batch in self.query(what, query).await? {
            let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)
                .map_err(|error| ClientError::Result { what, message: error.to_string() })?;
            let column = column.as_string::<i32>();
            texts.extend((0..column.len()).map(|row| column.is_valid(row).then(|| column.value(row).to_owned())));
        }
        Ok(texts)
    }

    /// Runs a statement for its effect.
    pub async fn execute(&self, what: &'static str, statement: &str) -> Result<(), ClientError> {
        tracing::debug!(what, statement, "sent");
        let query = Some(Self::sql(statement));
        let command = proto::Command {
            command_type: Some(proto::command::CommandType::SqlCommand(proto::SqlCommand { input: query, ..Default::default() })),
        };
        match self.run(what, proto::plan::OpType::Command(command)).await {
            // Its effect is all that was wanted.
            Ok(_) | Err(ClientError::Forgotten { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs a statement that may be repeated: again as long as other writers are ahead of it and the deadline has not passed.
    pub async fn execute_beside_others(&self, what: &'static str, statement: &str, deadline: Duration) -> Result<(), ClientError> {
        let (started, mut pause) = (Instant::now(), PAUSE);
        loop {
            match self.execute(what, statement).await {
                Err(ClientError::Refused { message, .. }) if is_conflict(&message) => {
                    if started.elapsed() >= deadline {
                        return Err(ClientError::Outrun { what, message });
                    }
                    tracing::debug!(what, message, "another writer was ahead; again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                ended => return ended,
            }
        }
    }

    /// Runs a query for its rows.
    pub async fn query(&self, what: &'static str, query: &str) -> Result<Vec<RecordBatch>, ClientError> {
        tracing::debug!(what, query, "sent");
        let mut failures = 0;
        loop {
            match self.run(what, proto::plan::OpType::Root(Self::sql(query))).await {
                // Asking twice does no harm.
                Err(ClientError::Forgotten { .. }) if failures < REATTACHES => failures += 1,
                ended => return ended,
            }
        }
    }

    fn sql(query: &str) -> proto::Relation {
        let sql = proto::Sql { query: query.to_owned(), ..Default::default() };
        proto::Relation { rel_type: Some(proto::relation::RelType::Sql(sql)), ..Default::default() }
    }

    fn there(&self) -> MutexGuard<'_, String> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self) -> proto::UserContext {
        proto::UserContext { user_id: self.user.clone(), user_name: self.user.clone(), ..Default::default() }
    }

    async fn run(&self, what: &'static str, plan: proto::plan::OpType) -> Result<Vec<RecordBatch>, ClientError> {
        let there = self.there().clone();
        let request = proto::ExecutePlanRequest {
            client_observed_server_side_session_id: Some(there).filter(|there| !there.is_empty()),
            session_id: self.client.session_id().to_owned(),
            user_context: Some(self.user()),
            client_type: Some(CLIENT.to_owned()),
            operation_id: Some(uuid::Uuid::new_v4().to_string()),
            tags: vec![self.tag.clone()],
            plan: Some(proto::Plan { op_type: Some(plan) }),
            ..Default::default()
        };
        let operation = ExecutePlanResponseReattachableIterator::new(request);
        let answers = self.answers(what, &operation).await;
        // What was answered is of no more use there, however it ended.
        let release = self.client.release_execute(operation.create_release_request(true).await);
        match tokio::time::timeout(self.patience.answer, release).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(what, %error, "an operation was not released; the server does it in time"),
            Err(_) => tracing::debug!(what, "the server did not say whether it released an operation"),
        }
        answers
    }

    /// Reads an operation's responses to the end, attaching again where the stream ends before.
    async fn answers(
        &self,
        what: &'static str,
        operation: &ExecutePlanResponseReattachableIterator,
    ) -> Result<Vec<RecordBatch>, ClientError> {
        let silence = self.patience.silence;
        let mut stream = match tokio::time::timeout(silence, self.client.execute_plan(operation.request().clone())).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) if !is_unreachable(&error) => return Err(ClientError::Refused { what, message: error.to_string() }),
            Ok(Err(_)) | Err(_) => None,
        };
        let (mut failures, mut pause, mut batches, mut opened) = (0, PAUSE, Vec::new(), Instant::now());
        loop {
            let dropped = match &mut stream {
                Some(open) => match tokio::time::timeout(silence, open.message()).await {
                    Ok(Ok(Some(response))) => {
                        (failures, pause) = (0, PAUSE);
                        operation.set_last_response_id(&response).await;
                        self.there().clone_from(&response.server_side_session_id);
                        match response.response_type {
                            Some(ResponseType::ArrowBatch(batch)) => decode(what, &batch.data, &mut batches)?,
                            Some(ResponseType::ResultComplete(_)) => return Ok(batches),
                            _ => {}
                        }
                        continue;
                    }
                    // The server ends streams every few minutes; the operation goes on.
                    Ok(Ok(None)) => {
                        if opened.elapsed() > LIVED {
                            (failures, pause) = (0, PAUSE);
                        }
                        "the stream ended".to_owned()
                    }
                    Ok(Err(status)) if is_transient(&status) => status.to_string(),
                    Ok(Err(status)) => {
                        return Err(ClientError::Refused { what, message: SparkError::from_grpc_status(status).to_string() });
                    }
                    Err(_) => format!("nothing came for {} s", silence.as_secs()),
                },
                None => "no answer".to_owned(),
            };
            failures += 1;
            if failures > REATTACHES {
                return Err(ClientError::Lost { what, message: dropped });
            }
            tracing::debug!(what, dropped, failures, "attached again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            opened = Instant::now();
            let request = operation.create_reattach_request().await;
            stream = match tokio::time::timeout(silence, self.client.reattach_execute(request)).await {
                Ok(Ok(stream)) => Some(stream),
                // It never arrived: the same operation is sent, which a server that has it after all refuses.
                Ok(Err(error)) if is_unknown(&error) && operation.last_response_id().await.is_none() => {
                    let again = self.client.execute_plan(operation.request().clone());
                    tokio::time::timeout(silence, again).await.ok().and_then(Result::ok)
                }
                Ok(Err(error)) if is_forgotten(&error) => return Err(ClientError::Forgotten { what }),
                Ok(Err(error)) if !is_unreachable(&error) => return Err(ClientError::Lost { what, message: error.to_string() }),
                Ok(Err(_)) | Err(_) => None,
            };
        }
    }

    /// Ends what is still running for this run.
    pub async fn interrupt(&self) {
        if let Err(error) = self.client.interrupt_tag(&self.tag).await {
            tracing::warn!(%error, "the cluster could not be told to stop; the statement in hand goes on there");
        }
    }

    pub async fn close(self) {
        match tokio::time::timeout(self.patience.answer, self.client.release_session()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the session was not released; the server does it in time"),
            Err(_) => tracing::debug!("the server did not say whether it released the session"),
        }
    }
}

fn decode(what: &'static str, data: &[u8], batches: &mut Vec<RecordBatch>) -> Result<(), ClientError> {
    let unreadable = |error: arrow::error::ArrowError| ClientError::Result { what, message: error.to_string() };
    for batch in StreamReader::try_new(data, None).map_err(unreadable)? {
        batches.push(batch.map_err(unreadable)?);
    }
    Ok(())
}

fn is_transient(status: &tonic::Status) -> bool {
    use tonic::Code;
    let dropped = status.message().contains("INVALID_CURSOR.DISCONNECTED") || status.message().contains("INVALID_CURSOR_DISCONNECTED");
    dropped
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
        // A connection that was cut.
        || (matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled) && is_transport(status.message()))
}

fn is_transport(message: &str) -> bool {
    ["transport error", "h2 protocol error", "connection", "stream closed", "broken pipe", "body"]
        .iter()
        .any(|part| message.to_ascii_lowercase().contains(part))
}

fn is_unreachable(error: &SparkError) -> bool {
    let text = error.to_string();
    ["UNAVAILABLE", "Unavailable", "currently unavailable", "connect error"].iter().any(|part| text.contains(part)) || is_transport(&text)
}

fn is_unknown(error: &SparkError) -> bool {
    let text = error.to_string();
    ["OPERATION_NOT_FOUND", "operation not found"].iter().any(|part| text.contains(part))
}

/// The operation has ended, and its answer went to a stream that was lost: Sail keeps none (0.7.2, `Executor::start`).
fn is_forgotten(error: &SparkError) -> bool {
    error.to_string().contains("task context not found for operation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_is_another_writers_conflict() {
        for conflict in [
            "[DELTA_CONCURRENT_APPEND.WITH_PARTITION_HINT] Transaction conflict detected",
            "io.delta.exceptions.ConcurrentDeleteReadException: This transaction attempted to read files that were deleted",
            "Commit failed: a concurrent transactions added new data.",
        ] {
            assert!(is_conflict(conflict), "{conflict}");
        }
        for other in [
            "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file s3://bronze/concurrent/part-1.json.gz",
            "[TABLE_OR_VIEW_NOT_FOUND] The table `concurrent` cannot be found",
        ] {
            assert!(!is_conflict(other), "{other}");
        }
    }
}
