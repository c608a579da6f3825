//! Generating code: the only module that quotes.
//!
//! Invariant: output depends on the input alone, in its order; every path is absolute, through
//! `__private`.

mod diagram;
mod handlers;
mod job;
mod steps;
mod stored;

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{DeriveInput, Item, Path};

use crate::{
    ast::{Job, MachineEnum, MachineImpl},
    attr::{Backoff, MachineOptions, Retry, read_impl_options},
    check,
    errors::Errors,
};

/// `#[durable_fsm]`: parse, check, generate.
pub(crate) fn durable_fsm(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let parsed = syn::parse2::<Item>(item.clone());
    let expanded = match parsed {
        Ok(Item::Enum(item)) => {
            let options = MachineOptions::read(options, &mut errors);
            let machine = MachineEnum::new(item, options);
            check::check_enum(&machine, &mut errors);
            steps::expand(&machine, errors.is_empty())
        }
        Ok(Item::Impl(item)) => {
            let krate = read_impl_options(options, &mut errors);
            let machine = MachineImpl::new(item, krate.as_ref(), &mut errors);
            check::check_impl(&machine, &mut errors);
            handlers::expand(&machine, errors.is_empty())
        }
        Ok(other) => {
            check::check_other(&other, &mut errors);
            other.into_token_stream()
        }
        Err(error) => {
            errors.push(error);
            item
        }
    };
    let errors = errors.report();
    quote!(#expanded #errors)
}

/// `#[durable_job]`: parse, check, generate.
pub(crate) fn durable_job(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let expanded = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Fn(item)) => {
            let options = MachineOptions::read_job(options, &mut errors);
            let job = Job::new(item, &options);
            check::check_job(&job, &mut errors);
            job::expand(&job, options, errors.is_empty())
        }
        Ok(other) => {
            check::check_no_job(&other, &mut errors);
            other.into_token_stream()
        }
        Err(error) => {
            errors.push(error);
            item
        }
    };
    let errors = errors.report();
    quote!(#expanded #errors)
}

/// `#[derive(DurableState)]`.
pub(crate) fn durable_state(item: TokenStream) -> TokenStream {
    derive(item, stored::expand_state)
}

/// `#[derive(DurableSignal)]`.
pub(crate) fn durable_signal(item: TokenStream) -> TokenStream {
    derive(item, stored::expand_signal)
}

fn derive(item: TokenStream, expand: fn(&DeriveInput, &mut Errors) -> TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let expanded = match syn::parse2::<DeriveInput>(item) {
        Ok(input) => expand(&input, &mut errors),
        Err(error) => {
            errors.push(error);
            TokenStream::new()
        }
    };
    let errors = errors.report();
    quote!(#expanded #errors)
}

/// The path to what generated code uses, with the span of what it is used for: the compiler then reports there.
fn private_at(krate: &Path, span: Span) -> TokenStream {
    respan(&quote!(#krate::__private), span)
}

/// A policy, as the runtime's type.
fn retry_policy(retry: &Retry, private: &TokenStream) -> TokenStream {
    let backoff = match retry.backoff {
        Backoff::Constant => quote!(constant),
        Backoff::Linear => quote!(linear),
        Backoff::Exponential => quote!(exponential),
    };
    let (initial, max) = (duration(retry.initial, private), duration(retry.max, private));
    let attempts = retry.max_attempts;
    let jitter = retry.jitter.then(|| quote!(.jitter()));
    quote!(#private::Retry::#backoff(#initial).max_attempts(#attempts).max(#max) #jitter)
}

fn duration(duration: Duration, private: &TokenStream) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(#private::Duration::new(#seconds, #nanos))
}

/// The same tokens, none of them a group, in another place.
fn respan(tokens: &TokenStream, span: Span) -> TokenStream {
    let tokens = tokens.clone().into_iter().map(|mut token| {
        token.set_span(span);
        token
    });
    tokens.collect()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
