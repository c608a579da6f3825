//! The rules for a test that gets a database: its signature.

use quote::ToTokens;
use syn::{FnArg, Item, ItemFn, Safety, Type};

use crate::errors::Errors;

/// Reports an item that is no function.
pub(crate) fn check_no_test(item: &Item, errors: &mut Errors) {
    let at = match item {
        Item::Struct(item) => item.ident.to_token_stream(),
        Item::Enum(item) => item.ident.to_token_stream(),
        Item::Mod(item) => item.ident.to_token_stream(),
        other => other.to_token_stream(),
    };
    errors.at(at, "`#[gen_durable::test]` goes on an `async fn` that takes a `PgPool`");
}

pub(crate) fn check_test(test: &ItemFn, errors: &mut Errors) {
    let sig = &test.sig;
    let name = format!("the test `{}`", sig.ident);
    for attr in &test.attrs {
        if attr.path().segments.last().is_some_and(|last| last.ident == "test") {
            errors.at(
                attr,
                format!("{name} has a second test attribute, and would run twice: remove one"),
            );
        }
    }
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, format!("{name} must be async: write `async fn {}`", sig.ident));
    }
    if !sig.generics.params.is_empty() {
        errors.at(
            &sig.generics,
            format!("{name} cannot be generic, lifetimes included, as the test harness calls it: remove the parameters"),
        );
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.at(
            token,
            format!("{name} is called by the test harness and cannot be unsafe: remove `unsafe`"),
        );
    }
    check_pool(test, &name, errors);
}

/// The compiler checks the pool's type: it may have another name here.
fn check_pool(test: &ItemFn, name: &str, errors: &mut Errors) {
    let mut inputs = test.sig.inputs.iter();
    match inputs.next() {
        None => errors.at(
            &test.sig.ident,
            format!("{name} takes the pool of its database: write `pool: PgPool`; a test without a database is a `#[test]`"),
        ),
        Some(FnArg::Receiver(receiver)) => {
            errors.at(receiver, format!("{name} is a function and no method: remove `self`"));
        }
        Some(FnArg::Typed(pool)) if matches!(&*pool.ty, Type::Reference(_)) => {
            errors.at(&pool.ty, format!("{name} owns its pool: write `pool: PgPool` without `&`"));
        }
        Some(FnArg::Typed(_)) => {}
    }
    for more in inputs {
        errors.at(more, format!("{name} takes the pool of its database alone: remove this"));
    }
}
