//! The machines of an engine, by name and version.
//!
//! Invariant: a name and a version stand for one type, whether the engine was given it or another
//! machine upgrades it.

use std::{any::TypeId, cmp::Reverse, collections::HashMap, sync::Arc};

use super::Runner;
use crate::{
    error::Error,
    machine::resources::Resources,
    storage::{Kind, Kinds, NewMachine},
};

fn kind(machine: &str, version: u32) -> Kind {
    let fsm_version = i32::try_from(version).unwrap_or(i32::MAX);
    Kind { fsm: machine.to_owned(), fsm_version }
}

/// The machines that an engine knows, including the versions that another machine upgrades.
#[derive(Default)]
pub(crate) struct Registry {
    by_kind: HashMap<Kind, Arc<dyn Runner>>,
}

impl Registry {
    /// Checks the machines and that their resources are there, and adds the versions that they
    /// upgrade.
    pub(crate) fn new(runners: Vec<Arc<dyn Runner>>, resources: &Resources) -> Result<Self, Error> {
        let mut registry = Self::default();
        let mut machines = HashMap::new();
        for runner in &runners {
            runner.check()?;
            let (machine, version) = (runner.name(), runner.version());
            for requirement in runner.requirements() {
                if !resources.contains(requirement.type_id) {
                    return Err(Error::MissingResource {
                        machine,
                        step: requirement.step,
                        resource: requirement.type_name,
                    });
                }
            }
            let kind = kind(machine, version);
            machines.insert(kind.clone(), runner.machine());
            if registry.by_kind.insert(kind, Arc::clone(runner)).is_some() {
                return Err(Error::DuplicateMachine { machine, version });
            }
        }
        // Newest first: an instance that several versions could upgrade goes as far as it can.
        let mut newest = runners;
        newest.sort_by_key(|runner| Reverse(runner.version()));
        for runner in newest {
            registry.add_older(&*runner, &mut machines)?;
        }
        Ok(registry)
    }

    /// Adds the versions that a machine upgrades, except for those that are there.
    fn add_older(
        &mut self,
        runner: &dyn Runner,
        machines: &mut HashMap<Kind, TypeId>,
    ) -> Result<(), Error> {
        let upgrader = runner.upgrader();
        let machine = runner.name();
        let mut below = runner.version();
        for older in runner.older() {
            let invalid = |reason: &str| Error::InvalidOption {
                option: format!(
                    "machine `{machine}` version {below}, which upgrades `{}`",
                    older.type_name
                ),
                reason: reason.to_owned(),
            };
            if older.name != machine {
                return Err(invalid("it has another name in the database; give both the same"));
            }
            if older.version >= below || older.version == 0 {
                return Err(invalid("its version is not a lower one; raise the newer one's"));
            }
            below = older.version;
            let kind = kind(machine, older.version);
            if *machines.entry(kind.clone()).or_insert(older.type_id) != older.type_id {
                return Err(Error::DuplicateMachine { machine, version: older.version });
            }
            self.by_kind.entry(kind).or_insert_with(|| Arc::clone(&upgrader));
        }
        Ok(())
    }

    pub(crate) fn get(&self, kind: &Kind) -> Option<&Arc<dyn Runner>> {
        self.by_kind.get(kind)
    }

    /// Returns the machines that the engine was given, each once.
    pub(crate) fn runners(&self) -> impl Iterator<Item = &Arc<dyn Runner>> {
        let own = |(kind, runner): &(&Kind, &Arc<dyn Runner>)| {
            **kind == self::kind(runner.name(), runner.version())
        };
        self.by_kind.iter().filter(own).map(|(_, runner)| runner)
    }

    /// Returns the registered rows of the machines that the engine was given, and of the older
    /// versions that they upgrade.
    pub(crate) fn machines(&self) -> Vec<NewMachine> {
        let mut machines: Vec<NewMachine> = self.runners().map(|own| own.registered()).collect();
        for older in self.runners().flat_map(|runner| runner.older()) {
            let known =
                |one: &NewMachine| one.fsm == older.name && one.fsm_version == older.version;
            if !machines.iter().any(known) {
                machines.push((older.registered)());
            }
        }
        machines
    }

    /// Returns the names and versions of all machines, as the statements take them.
    pub(crate) fn kinds(&self) -> Kinds {
        let mut kinds = Kinds::default();
        for (kind, runner) in &self.by_kind {
            kinds.fsms.push(kind.fsm.clone());
            kinds.versions.push(kind.fsm_version);
            if runner.listens() {
                kinds.listening.push(kind.fsm.clone());
            }
        }
        kinds
    }
}
