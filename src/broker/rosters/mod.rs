//! Beside the log: who is at which document, as all nodes share it. Truth about a member is one record; whoever changes it does so in
//! one atomic step that counts the roster's version on, and tells all nodes that listen.
//!
//! A **device** is one way in which a person is there: a stream, or a bare lease. It belongs to a node as long as its stream is open
//! there, or to nobody, and then it has a deadline. A **member** is a person with at least one device. All clocks here are the
//! store's own: those of the nodes may differ by hours.

mod memory;
mod turn;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::broker::BrokerError;
use crate::event::Id;
pub use memory::MemoryRosters;
pub(super) use memory::Shared;
pub(super) use turn::millis;

/// How long a node that says nothing still counts as being there.
pub const NODE_LEASE: Duration = Duration::from_secs(5);
/// How often a node says that it is there, and looks for what is due.
pub const BEAT: Duration = Duration::from_millis(500);
/// How long "is typing" is true without being said again.
pub const TYPING: Duration = Duration::from_secs(3);

/// How far a roster has come. Equal versions have equal members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RosterVersion {
    /// Random, of this life of the roster: another one means that the store has lost it. 0: there is none.
    pub epoch: u64,
    /// Counts changes that can be seen.
    pub number: u64,
}

/// A document's members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// As of when.
    pub version: RosterVersion,
    /// By user.
    pub members: BTreeMap<Id, MemberRecord>,
}

/// A person at a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Since when: milliseconds since the Unix epoch, by the store's clock.
    pub joined_ms: u64,
    /// Name and avatar, as JSON text that only those who write it read.
    pub profile: Arc<str>,
    /// By name; never empty.
    pub devices: BTreeMap<DeviceName, DeviceRecord>,
}

/// The name of a device, unique within a document: 1 to 128 characters of `A–Z a–z 0–9 . _ -`.
pub type DeviceName = Arc<str>;

/// One way in which a person is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceRecord {
    /// The node that has its stream.
    pub node: Option<u64>,
    /// When it last said something: milliseconds since the Unix epoch, by the store's clock.
    pub active_ms: u64,
    /// It has said nothing for longer than the setting.
    pub idle: bool,
    /// What it has said, each as JSON text. Never `null`.
    pub state: BTreeMap<Aspect, Arc<str>>,
}

/// What a device may say about its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// `"online"`, `"away"`, `"dnd"`, `"idle"`, `"offline"`.
    Status,
    /// Where the pointer is.
    Cursor,
    /// What is selected.
    Selection,
    /// `true`, for `TYPING` after it was last said.
    Typing,
    /// A small free object.
    Data,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Status, Self::Cursor, Self::Selection, Self::Typing, Self::Data];

    /// Its name on every wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Cursor => "cursor",
            Self::Selection => "selection",
            Self::Typing => "typing",
            Self::Data => "data",
        }
    }

    /// The aspect of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|aspect| aspect.as_str() == name)
    }
}

/// Changes of a device's state: JSON text, or `None` to forget it.
pub type Patch = BTreeMap<Aspect, Option<Arc<str>>>;

/// Why a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveCause {
    /// It closed its last stream, or said so.
    Closed,
    /// Its lease ended, or its connection died.
    Timeout,
    /// Its node died.
    NodeLost,
    /// It may not see the document any more.
    Revoked,
    /// Its node was shut down, and it did not come back.
    Drain,
}

impl LeaveCause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Timeout, Self::NodeLost, Self::Revoked, Self::Drain];

    /// Its name on every wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::NodeLost => "node_lost",
            Self::Revoked => "revoked",
            Self::Drain => "drain",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

/// One step of a change. Each can be repeated: what is already so stays so, and counts no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterStep {
    /// Whose.
    pub user: Id,
    /// What happens.
    pub what: RosterChange,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RosterChange {
    /// A device is there, and says something. One that is new takes the place, and the state, of one of the same user that lingers,
    /// if there is one, so that a reconnect changes nothing.
    Put {
        /// Which.
        device: DeviceName,
        /// How it is held from now on.
        hold: Hold,
        /// Name and avatar; the newest counts.
        profile: Arc<str>,
        /// What it says. Whatever it is, the device is active then; an empty one only renews.
        patch: Patch,
    },
    /// A device says something, whoever holds it. Nothing happens if it is not there.
    Say {
        /// Which.
        device: DeviceName,
        /// What it says.
        patch: Patch,
    },
    /// The stream of a device that this node holds is gone: it stays for so long, unless it comes back. Nothing can be seen of that.
    /// Nothing happens if another node holds it, or if it is not there.
    Linger {
        /// Which.
        device: DeviceName,
        /// Why it will have left.
        cause: LeaveCause,
        /// How long; nothing at all: it leaves now.
        stays: Duration,
    },
    /// A device leaves; with the last one its member does.
    Drop {
        /// Which.
        device: DeviceName,
        /// Why.
        cause: LeaveCause,
    },
    /// The member leaves with all devices.
    Expel {
        /// Why.
        cause: LeaveCause,
    },
}

/// How a device is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// By the node that says so, as long as that says that it is there.
    Node,
    /// By nobody, for so long.
    Lease(Duration),
}

/// What has become of a member, with everything about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there, like this.
    Here(MemberRecord),
    /// It has left.
    Left(LeaveCause),
}

/// What a node hears of rosters that it listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RosterNews {
    /// A roster has changed, from the version before this one.
    Changed {
        /// Of which document.
        document: Id,
        /// The version now.
        version: RosterVersion,
        /// Who is concerned, in order of their changes; each once.
        members: Vec<(Id, Outcome)>,
    },
    /// Something may have been missed of every roster before this.
    Interrupted,
}

/// The answer to "I am here".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The store did not know (any more) that this node is there: its devices may be gone.
    pub anew: bool,
}

/// The rosters of a cluster. Two implementations, one contract (`tests/it/contract/rosters`).
pub trait Rosters: Send + Sync + fmt::Debug {
    /// The number of this node, as in `DeviceRecord::node`.
    fn node(&self) -> u64;

    /// Takes these steps in one atomic step, and tells all who listen. Answers the version after it.
    ///
    /// # Errors
    /// `Unavailable`: it may or may not have happened; say it again.
    fn change<'a>(
        &'a self,
        document: &'a Id,
        steps: &'a [RosterStep],
    ) -> BoxFuture<'a, Result<RosterVersion, BrokerError>>;

    /// Who is there.
    ///
    /// # Errors
    /// `Unavailable`: it can't be asked.
    fn read<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<Roster, BrokerError>>;

    /// How far these rosters have come; one answer each.
    ///
    /// # Errors
    /// `Unavailable`: it can't be asked.
    fn versions<'a>(&'a self, documents: &'a [Id]) -> BoxFuture<'a, Result<Vec<RosterVersion>, BrokerError>>;

    /// From the answer on, changes of this roster are heard.
    ///
    /// # Errors
    /// `Unavailable`: nobody can be listened to at the moment.
    fn listen<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Its changes are of no interest any more.
    fn ignore<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, ()>;

    /// Says that this node is there, and takes out what is due: devices whose deadline is over or whose node is dead, typing that ended,
    /// idleness that begins. To be called every `BEAT`. Nothing is taken out until a whole `NODE_LEASE` has passed since the store
    /// was heard of again after a pause.
    ///
    /// # Errors
    /// `Unavailable`: it can't be asked.
    fn beat(&self) -> BoxFuture<'_, Result<Beat, BrokerError>>;

    /// This node leaves for good: what it still holds is due from now on.
    fn leave(&self) -> BoxFuture<'_, ()>;

    /// Hands on the changes of the rosters that are listened to, until nobody hears them any more. One call in a life.
    fn hear(&self, news: mpsc::Sender<RosterNews>) -> BoxFuture<'_, ()>;
}
