//! Generates code: all generated code is quoted here.
//!
//! Invariant: the output depends on the input alone, and keeps its order. Every path is absolute,
//! or begins with the import of `__private`.

mod diagram;
mod handlers;
mod import;
mod job;
mod limits;
mod steps;
mod stored;
mod test_fn;

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{DeriveInput, Item};

use crate::{
    ast::{Job, MachineEnum, MachineImpl, ends},
    attr::{Backoff, MachineOptions, Retry, TestOptions, Text, read_impl_options},
    check,
    errors::Errors,
};

/// Expands `#[durable_fsm]`: parses, checks, generates.
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
            let machine = MachineImpl::new(item, &mut errors);
            check::check_impl(&machine, &mut errors);
            handlers::expand(&machine, krate.as_ref(), errors.is_empty())
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

/// Expands `#[durable_job]`: parses, checks, generates.
pub(crate) fn durable_job(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let expanded = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Fn(item)) => {
            let options = MachineOptions::read_job(options, &mut errors);
            let job = Job::new(item, &options);
            check::check_job(&job, options.isolation.as_ref(), &mut errors);
            check::check_schedule(&options.schedule, check::IS_ENABLED, &mut errors);
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

/// Expands `#[gen_durable::test]`: parses, checks, generates.
pub(crate) fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let options = TestOptions::read(options, &mut errors);
    let expanded = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Fn(item)) => {
            check::check_test(&item, &mut errors);
            if errors.is_empty() { test_fn::expand(&item, &options) } else { test_fn::stub(item) }
        }
        Ok(other) => {
            check::check_no_test(&other, &mut errors);
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

/// Expands `#[derive(DurableState)]`.
pub(crate) fn durable_state(item: TokenStream) -> TokenStream {
    derive(item, stored::expand_state)
}

/// Expands `#[derive(DurableSignal)]`.
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

/// The import's name with the span of the user's code that it is used for. The compiler then
/// reports errors at this code.
fn private_at(alias: &Ident, span: Span) -> Ident {
    let mut alias = alias.clone();
    alias.set_span(span);
    alias
}

/// The text of an option: a literal, or the name of the constant that [`constant`] declares.
fn text(option: &str, text: &Text) -> TokenStream {
    match text {
        Text::Literal(literal) => literal.to_token_stream(),
        Text::Constant(_) => constant_name(option).into_token_stream(),
    }
}

fn constant_name(option: &str) -> Ident {
    format_ident!("__{}", option.to_uppercase())
}

/// Declares the constant that an option names, under a name of the expansion's own, and its check.
/// Returns none for a literal, which is checked when it is read.
fn constant(option: &str, text: &Text, private: &Ident) -> Option<TokenStream> {
    let Text::Constant(path) = text else { return None };
    let name = constant_name(option);
    let (begin, end) = ends(path);
    let at = private_at(private, begin);
    // The call begins at the path's first token and ends at its last, so that the compiler
    // underlines the whole path.
    let arguments = quote_spanned!(end=> (#name, #option));
    let check = quote_spanned!(begin=> const _: () = #at::is_a_name #arguments;);
    Some(quote! {
        const #name: &#private::str = #path;
        #check
    })
}

/// A retry policy, as an expression of the runtime's type.
fn retry_policy(retry: &Retry, private: &Ident) -> TokenStream {
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

fn duration(duration: Duration, private: &Ident) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(#private::Duration::new(#seconds, #nanos))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
