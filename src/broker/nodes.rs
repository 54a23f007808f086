//! Beside the log: questions from node to node, and what is remembered of streams that have a name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::event::LogId;

/// Records of one process at most; the oldest go first.
const RECORDS_MAX: usize = 65_536;

/// A question of another node.
#[derive(Debug)]
pub struct Call {
    /// What is asked, in the words of whoever asks.
    pub question: String,
    /// Takes the answer; dropped: there is none.
    pub answer: oneshot::Sender<String>,
}

/// What a node hears beside the log.
#[derive(Debug)]
pub enum Heard {
    /// A question.
    Call(Call),
    /// Questions may have been missed before this.
    Anew,
}

/// Answers of other nodes.
#[derive(Debug, Default)]
pub struct Answers {
    /// Those that came in time.
    pub answers: Vec<String>,
    /// Whether every node answered.
    pub complete: bool,
}

/// Edits of a stream by its name: channels, and since which position of the log they are carried, if they are.
pub type Record = Vec<(String, Option<LogId>)>;

/// Records of one process: the same as in Redis, without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(Arc<Mutex<HashMap<String, Kept>>>);

/// Edits, and until when they are remembered.
type Kept = (HashMap<String, Option<LogId>>, Instant);

impl Records {
    fn open(&self, key: &str, kept: Duration) -> Record {
        let mut records = self.0.lock();
        let now = Instant::now();
        if records.len() >= RECORDS_MAX {
            records.retain(|_, (_, until)| *until > now);
        }
        if records.len() >= RECORDS_MAX {
            let oldest = records.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
            oldest.into_iter().for_each(|key| drop(records.remove(&key)));
        }
        let record = records.entry(key.to_owned()).or_insert_with(|| (HashMap::new(), now));
        if record.1 <= now {
            record.0.clear();
        }
        record.1 = now + kept;
        record.0.iter().map(|(channel, carried)| (channel.clone(), *carried)).collect()
    }

    fn edit(&self, key: &str, edits: &[(&str, Option<LogId>)], kept: Duration) {
        self.open(key, kept);
        if let Some((record, _)) = self.0.lock().get_mut(key) {
            record.extend(edits.iter().map(|(channel, carried)| ((*channel).to_owned(), *carried)));
        }
    }

    fn is_known(&self, key: &str) -> bool {
        self.0.lock().get(key).is_some_and(|(_, until)| *until > Instant::now())
    }
}

impl Broker {
    /// Asks all other nodes, and waits for their answers for so long.
    ///
    /// # Errors
    /// `Unavailable`: nobody could be asked.
    pub async fn ask_nodes(&self, question: &str, patience: Duration) -> Result<Answers, BrokerError> {
        match self {
            Self::Memory(_) => Ok(Answers { answers: Vec::new(), complete: true }),
            Self::Redis(broker) => broker.ask_nodes(question, patience).await,
        }
    }

    /// Hands on what other nodes ask, until nobody hears it any more.
    pub async fn hear_nodes(&self, heard: mpsc::Sender<Heard>) {
        match self {
            Self::Memory(_) => heard.closed().await,
            Self::Redis(broker) => broker.hear_nodes(heard).await,
        }
    }

    /// The edits of a stream by its name, kept for so long from now on. `key` is a hash.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn open_record(&self, key: &str, kept: Duration) -> Result<Record, BrokerError> {
        match self {
            Self::Memory(broker) => Ok(broker.records().open(key, kept)),
            Self::Redis(broker) => broker.open_record(key, kept).await,
        }
    }

    /// Remembers edits of a stream by its name. `key` is a hash; channels are valid names.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn edit_record(
        &self,
        key: &str,
        edits: &[(&str, Option<LogId>)],
        kept: Duration,
    ) -> Result<(), BrokerError> {
        match self {
            Self::Memory(broker) => {
                broker.records().edit(key, edits, kept);
                Ok(())
            }
            Self::Redis(broker) => broker.edit_record(key, edits, kept).await,
        }
    }

    /// Whether there is, or was a moment ago, a stream of this name.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn knows_record(&self, key: &str) -> Result<bool, BrokerError> {
        match self {
            Self::Memory(broker) => Ok(broker.records().is_known(key)),
            Self::Redis(broker) => broker.knows_record(key).await,
        }
    }
}
