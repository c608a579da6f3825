//! The services that the shop calls. Each takes a key, by which it recognises a call that it has
//! had before: a step may run twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gen_durable::prelude::*;

use crate::machine::{Order, Parcel};

/// A record of calls by key, shared by its clones.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<BTreeMap<String, i64>>>);

impl Book {
    fn open(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Charges cards.
#[derive(Clone, Debug, Default)]
pub struct Bank {
    charged: Book,
    /// The number of the next calls that find the line busy.
    busy: Arc<Mutex<u32>>,
}

/// The reasons for which the bank charges nothing.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BankError {
    /// The bank will not charge this card, however often it is asked.
    #[error("the card was declined")]
    Declined,
    /// The bank could not be reached.
    #[error("the bank's line was busy")]
    Busy,
}

impl Bank {
    /// Charges a card once for an order.
    ///
    /// # Errors
    ///
    /// [`BankError`].
    pub fn charge(
        &self,
        order: InstanceId<Order>,
        card: &str,
        cents: i64,
    ) -> Result<(), BankError> {
        {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if *busy > 0 {
                *busy -= 1;
                return Err(BankError::Busy);
            }
        }
        if card == "declined" {
            return Err(BankError::Declined);
        }
        self.charged.open().insert(order.to_string(), cents);
        Ok(())
    }

    /// Gives an order's money back, if there is any.
    ///
    /// # Errors
    ///
    /// [`BankError`].
    pub fn refund(&self, order: InstanceId<Order>) -> Result<(), BankError> {
        self.charged.open().remove(&order.to_string());
        Ok(())
    }

    /// Returns the sum that the bank has charged and not given back.
    #[cfg(test)]
    pub fn sum(&self) -> i64 {
        self.charged.open().values().sum()
    }

    /// Lets the next calls find the line busy.
    #[cfg(test)]
    pub fn be_busy(&self, calls: u32) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = calls;
    }
}

/// Carries parcels. It refuses the article `table`, whose parcel is too large.
#[derive(Clone, Debug, Default)]
pub struct Carrier(Book);

/// The carrier does not take a parcel.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the parcel is too large")]
pub struct TooLarge;

impl Carrier {
    /// Hands a parcel over once.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    pub fn carry(&self, parcel: InstanceId<Parcel>, sku: &str, count: i32) -> Result<(), TooLarge> {
        if sku == "table" {
            return Err(TooLarge);
        }
        self.0.open().insert(parcel.to_string(), count.into());
        Ok(())
    }

    /// Brings a parcel back, if it is on its way.
    pub fn take_back(&self, parcel: InstanceId<Parcel>) {
        self.0.open().remove(&parcel.to_string());
    }

    /// Returns the number of things that are on their way.
    #[cfg(test)]
    pub fn carried(&self) -> i64 {
        self.0.open().values().sum()
    }
}

/// Sends mails.
#[derive(Clone, Debug, Default)]
pub struct Mailer(Book);

impl Mailer {
    /// Sends a mail. A mail that is sent again is the same mail.
    pub fn send(&self, text: &str) {
        self.0.open().insert(text.to_owned(), 1);
    }

    /// Returns the mails that were sent.
    #[cfg(test)]
    pub fn sent(&self) -> Vec<String> {
        self.0.open().keys().cloned().collect()
    }
}
