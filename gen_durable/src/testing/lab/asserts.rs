//! The expectations of a test about an instance. Each returns a `Result`. If one does not hold, the
//! error says where the instance stands and what it did.

use std::fmt::Debug;

use super::{Lab, LabError, database::Stands};
use crate::{id::InstanceId, machine::Machine, value};

impl Lab {
    /// Expects that an instance is parked at this step.
    ///
    /// # Errors
    ///
    /// [`LabError`] if it is not; it says where the instance stands and what it did.
    pub async fn assert_parked<M: Machine>(
        &self,
        id: InstanceId<M>,
        step: M,
    ) -> Result<(), LabError> {
        let stands = self.stands(id).await?;
        let holds = stands.status == "awaiting_signal" && stands.step == step.name();
        self.expect(id, holds, &stands, || format!("parked at `{}`", step.name()))
    }

    /// Expects that an instance waits to run at this step: later, or as its scope is paused.
    ///
    /// # Errors
    ///
    /// [`LabError`] if it does not; it says where the instance stands and what it did.
    pub async fn assert_runnable<M: Machine>(
        &self,
        id: InstanceId<M>,
        step: M,
    ) -> Result<(), LabError> {
        let stands = self.stands(id).await?;
        let holds = stands.status == "runnable" && stands.step == step.name();
        self.expect(id, holds, &stands, || format!("runnable at `{}`", step.name()))
    }

    /// Expects that an instance is done with this output.
    ///
    /// # Errors
    ///
    /// [`LabError`] if it is not; it says where the instance stands and what it did.
    pub async fn assert_done<M: Machine>(
        &self,
        id: InstanceId<M>,
        output: &M::Output,
    ) -> Result<(), LabError>
    where
        M::Output: PartialEq + Debug,
    {
        let stands = self.stands(id).await?;
        let found = match (&*stands.status, &stands.result) {
            ("done", Some(result)) => {
                Some(self.decode::<M, M::Output>(id, "result", result, &stands)?)
            }
            _ => None,
        };
        let holds = found.as_ref() == Some(output);
        self.expect(id, holds, &stands, || format!("done with {output:?}"))
    }

    /// Expects that an instance has failed. Returns its last error.
    ///
    /// # Errors
    ///
    /// [`LabError`] if it has not; it says where the instance stands and what it did.
    pub async fn assert_failed<M: Machine>(&self, id: InstanceId<M>) -> Result<String, LabError> {
        let stands = self.stands(id).await?;
        self.expect(id, stands.status == "failed", &stands, || "failed".to_owned())?;
        Ok(stands.last_error.unwrap_or_default())
    }

    /// Returns the state of an instance, as the last commit left it.
    ///
    /// # Errors
    ///
    /// [`LabError`] if there is no such instance, or its state does not decode.
    pub async fn state<M: Machine>(&self, id: InstanceId<M>) -> Result<M::State, LabError> {
        let stands = self.stands(id).await?;
        self.decode::<M, M::State>(id, "state", &stands.state, &stands)
    }

    /// Says where an instance stands, and what it did.
    ///
    /// # Errors
    ///
    /// [`LabError`] if there is no such instance, or the database failed.
    pub async fn describe<M: Machine>(&self, id: InstanceId<M>) -> Result<String, LabError> {
        let stands = self.stands(id).await?;
        let (stands, trace) =
            (self.database.describe(id.get(), &stands), self.director.trace(Some(id.get())));
        Ok(format!("{stands}\n{trace}"))
    }

    async fn stands<M: Machine>(&self, id: InstanceId<M>) -> Result<Stands, LabError> {
        self.database.look(id.get()).await?.ok_or_else(|| {
            LabError::failed(
                format!("there is no instance {id} of `{}`: it was deleted or pruned, or its insert was not committed", M::NAME),
                self.director.trace(Some(id.get())),
            )
        })
    }

    fn expect<M: Machine>(
        &self,
        id: InstanceId<M>,
        holds: bool,
        stands: &Stands,
        wanted: impl FnOnce() -> String,
    ) -> Result<(), LabError> {
        if holds {
            return Ok(());
        }
        let what = format!(
            "expected that the instance is {}, but {}",
            wanted(),
            self.database.describe(id.get(), stands)
        );
        Err(LabError::failed(what, self.director.trace(Some(id.get()))))
    }

    fn decode<M: Machine, T: serde::de::DeserializeOwned>(
        &self,
        id: InstanceId<M>,
        what: &str,
        text: &str,
        stands: &Stands,
    ) -> Result<T, LabError> {
        value::decode(what, M::NAME, M::VERSION, text).map_err(|error| {
            let what = format!("{error}; {}", self.database.describe(id.get(), stands));
            LabError::failed(what, self.director.trace(Some(id.get())))
        })
    }
}
