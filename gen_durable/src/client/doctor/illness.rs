//! The kinds of illness that the doctor knows.

use std::fmt;

/// Declares the illnesses with their names.
macro_rules! illnesses {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// A kind of illness that [`Client::diagnose`](crate::Client::diagnose) finds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Illness {
            $($(#[$doc])+ $variant,)+
        }

        impl Illness {
            /// All of them, in their order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns its stable name, in `snake_case`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

illnesses! {
    /// A look failed: the login lacks a right, or the look took too long.
    CouldNotLook = "could_not_look",
    /// The database has no schema `gen_durable`.
    NoSchema = "no_schema",
    /// The schema is older than this library.
    SchemaBehind = "schema_behind",
    /// The schema is newer than this library.
    SchemaAhead = "schema_ahead",
    /// No engine lives.
    NoEngine = "no_engine",
    /// Instances wait in a queue that no living engine serves.
    UnservedQueue = "unserved_queue",
    /// Instances wait for a machine that no living engine runs.
    UnknownMachine = "unknown_machine",
    /// Instances wait for a version of a machine, and living engines run others.
    UnknownVersion = "unknown_version",
    /// Instances wait in a queue whose engines do not run their machine, while others do.
    Unreachable = "unreachable",
    /// A worker's lease ran out, and no reaper has removed it.
    LostWorker = "lost_worker",
    /// Instances count as executing in the name of a worker that does not exist.
    OrphanedInstances = "orphaned_instances",
    /// A transaction left something to an engine, and none has done it: a report, the release of a
    /// partition key, the answer to a cancel.
    Unsettled = "unsettled",
    /// A queue, a machine or a step is paused, and instances are held back.
    PausedScope = "paused_scope",
    /// Single instances are paused, each by a pause of its own.
    PausedInstances = "paused_instances",
    /// An instance waits for the report of a child, and it has no child that is alive.
    NoChild = "no_child",
    /// An instance waits for a signal that its machine does not declare.
    UndeclaredSignal = "undeclared_signal",
    /// An instance has waited for long, without a timeout.
    LongPark = "long_park",
    /// Instances of a partition key wait behind one that does not go on.
    HeldKey = "held_key",
    /// Instances wait for a limit that no living engine declares.
    UndeclaredLimit = "undeclared_limit",
    /// Instances wait for a limit that is too small for a single run.
    ImpossibleLimit = "impossible_limit",
    /// No living engine declares a schedule.
    UndeclaredSchedule = "undeclared_schedule",
    /// The last tick of a schedule could not insert its instance.
    FailingSchedule = "failing_schedule",
    /// A schedule is paused.
    PausedSchedule = "paused_schedule",
    /// A schedule has not fired, though it is due.
    OverdueSchedule = "overdue_schedule",
    /// Many instances have failed in the last hour.
    ManyFailures = "many_failures",
    /// A setting of the server loses data in a crash.
    UnsafeSetting = "unsafe_setting",
    /// A setting of the server lets tables and indexes grow without bounds.
    NoAutovacuum = "no_autovacuum",
    /// The server, the database or a role has a timeout that is shorter than an engine's statements
    /// may take.
    ShortTimeout = "short_timeout",
    /// The server is older than this library supports.
    OldServer = "old_server",
    /// Nearly all connections of the server are in use.
    FewConnections = "few_connections",
    /// The clocks of the database and of this process differ.
    ClockSkew = "clock_skew",
    /// A table consists of dead rows for the most part.
    Bloat = "bloat",
    /// An old transaction keeps vacuum from removing dead rows.
    OldTransaction = "old_transaction",
    /// A prepared transaction is old.
    OldPreparedTransaction = "old_prepared_transaction",
    /// The transaction ids of the database run out.
    Wraparound = "wraparound",
    /// The history lacks the partition of today or tomorrow, or has rows in its default partition.
    HistoryPartitions = "history_partitions",
}

impl fmt::Display for Illness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
