//! The rules for states and signals.

use syn::{Attribute, Data, DeriveInput};

use crate::{attr::is_durable, errors::Errors};

pub(crate) fn check_state(input: &DeriveInput, errors: &mut Errors) {
    check(input, "state", errors);
}

pub(crate) fn check_signal(input: &DeriveInput, errors: &mut Errors) {
    check(input, "signal", errors);
}

fn check(input: &DeriveInput, what: &str, errors: &mut Errors) {
    let ident = &input.ident;
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            format!("the {what} `{ident}` cannot be generic, as what is stored must be of one known type: write a type for each"),
        );
    }
    if let Data::Union(data) = &input.data {
        errors.at(
            data.union_token,
            format!("the {what} `{ident}` cannot be a union: write a struct or an enum"),
        );
    }
    for attr in inner_attrs(&input.data).filter(|attr| is_durable(attr)) {
        errors.at(
            attr,
            format!(
                "`#[durable(…)]` goes on the type `{ident}`; fields and variants take `#[serde(…)]`"
            ),
        );
    }
}

/// The attributes of fields and variants.
fn inner_attrs(data: &Data) -> impl Iterator<Item = &Attribute> {
    let (variants, fields) = match data {
        Data::Struct(data) => (None, Some(&data.fields)),
        Data::Enum(data) => (Some(&data.variants), None),
        Data::Union(_) => (None, None),
    };
    let of_variants = variants.into_iter().flatten().flat_map(|variant| {
        variant.attrs.iter().chain(variant.fields.iter().flat_map(|field| &field.attrs))
    });
    of_variants.chain(fields.into_iter().flatten().flat_map(|field| &field.attrs))
}
