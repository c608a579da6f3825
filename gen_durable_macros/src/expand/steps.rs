//! The enum's expansion: `impl Machine`, the typed helpers, and the check that each variant has its
//! step.
//!
//! Invariant: the user's enum is emitted as it stands, also if it has mistakes. The expansion then
//! declares enough to keep the compiler from reporting errors that only follow from the mistakes.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, Path, Visibility, ext::IdentExt, parse_quote, spanned::Spanned};

use super::{
    constant, duration,
    import::{Hint, alias, import},
    private_at, retry_policy, text,
};
use crate::{
    ast::{MachineEnum, Variant, ended, ends, signal_helper},
    attr::is_step,
    names::{compact, function_name, snake_case},
};

/// The enum and the code beside it.
pub(crate) fn expand(machine: &MachineEnum, correct: bool) -> TokenStream {
    let mut item = machine.item.clone();
    for variant in &mut item.variants {
        variant.attrs.retain(|attr| !is_step(attr));
    }
    let generated =
        item.generics.params.is_empty().then(|| generated(machine, correct, &TokenStream::new()));
    quote!(#item #generated)
}

/// The code beside the enum, in one block with `beside`: the steps of a job.
pub(super) fn generated(machine: &MachineEnum, correct: bool, beside: &TokenStream) -> TokenStream {
    let correct = correct && !machine.has_twins();
    let machine_impl = machine_impl(machine, correct);
    // A retired version is kept only for its stored instances: no instance begins in it.
    let helpers = (!machine.options.retired).then(|| helpers(machine));
    let signals = signals(machine);
    let checks = checks(machine, correct);
    let private = alias();
    let import = import(machine.options.krate.as_ref(), &private, Hint::Option);
    let constants = [("queue", &machine.options.queue), ("name", &machine.options.name)];
    let constants =
        constants.into_iter().filter_map(|(name, text)| constant(name, text.as_ref()?, &private));
    quote! {
        const _: () = {
            #import
            #(#constants)*
            #machine_impl
            #helpers
            #signals
            #checks
            #beside
        };
    }
}

fn machine_impl(machine: &MachineEnum, correct: bool) -> TokenStream {
    let private = alias();
    let ident = &machine.item.ident;
    let options = &machine.options;
    let name = match &options.name {
        Some(name) => text("name", name),
        None => snake_case(&ident.unraw().to_string()).into_token_stream(),
    };
    let version = options.version.unwrap_or(1);
    let queue =
        options.queue.as_ref().map_or_else(|| quote!("default"), |queue| text("queue", queue));
    let state = state(machine);
    let output =
        options.output.as_ref().map_or_else(|| quote!(#private::Value), |output| quote!(#output));
    let timeout = options.timeout.map(|timeout| {
        let timeout = duration(timeout, &private);
        quote!(const TIMEOUT: #private::Option<#private::Duration> = #private::Some(#timeout);)
    });
    let retry = options.retry.as_ref().map(|retry| {
        let retry = retry_policy(retry, &private);
        quote!(const RETRY: #private::Option<#private::Retry> = #private::Some(#retry);)
    });
    let history = options.history.map(|level| {
        let level = Ident::new(level, proc_macro2::Span::call_site());
        quote!(const HISTORY: #private::History = #private::History::#level;)
    });
    let on_cancel =
        options.on_cancel.as_ref().filter(|_| correct).map(
            |step| quote!(const ON_CANCEL: #private::Option<Self> = #private::Some(Self::#step);),
        );
    let upgrades = options.upgrades.as_ref().map(|older| {
        let at = private_at(&alias(), ends(older).0);
        let from = quote_spanned!(ends(older).0=> #at::Upgrades::<Self>::from::<#older>());
        quote!(const UPGRADES: #private::Upgrades<Self> = #from;)
    });
    let cfgs: Vec<_> = machine.steps.iter().map(|step| &step.cfgs).collect();
    let names: Vec<_> = machine.steps.iter().map(|step| &step.name).collect();
    let idents: Vec<_> = machine.steps.iter().map(|step| &step.ident).collect();
    let variants = idents.iter().map(|ident| ident.unraw().to_string());
    let signal_types = distinct_signals(machine).into_iter().map(|(signal, _)| signal);
    let (initial, to_name, from_name) = if correct {
        (
            initial(machine),
            quote!(match self { #(#(#cfgs)* Self::#idents => #names,)* }),
            quote! {
                match name {
                    #(#(#cfgs)* #names => #private::Some(Self::#idents),)*
                    _ => #private::None,
                }
            },
        )
    } else {
        // This is never evaluated, as the mistakes that led here are errors.
        let wrong = quote!(::core::panic!("the machine has mistakes"));
        (wrong.clone(), wrong, quote!({ let _ = name; #private::None }))
    };
    quote! {
        #[automatically_derived]
        impl #private::Machine for #ident {
            type State = #state;
            type Output = #output;
            const NAME: &'static #private::str = #name;
            const VERSION: #private::u32 = #version;
            const QUEUE: &'static #private::str = #queue;
            #timeout
            #retry
            const INITIAL: Self = #initial;
            #on_cancel
            #history
            const STEPS: &'static [&'static #private::str] = &[#(#(#cfgs)* #names),*];
            const VARIANTS: &'static [&'static #private::str] = &[#(#(#cfgs)* #variants),*];
            const SIGNALS: &'static [&'static #private::str] =
                &[#(<#signal_types as #private::DurableSignal>::NAME),*];
            #upgrades

            fn name(&self) -> &'static #private::str {
                #to_name
            }

            fn from_name(name: &#private::str) -> #private::Option<Self> {
                #from_name
            }
        }
    }
}

/// The initial step.
fn initial(machine: &MachineEnum) -> TokenStream {
    match &machine.options.initial {
        Some(initial) => quote!(Self::#initial),
        None => first(&machine.steps, |step| {
            let ident = &step.ident;
            quote!(Self::#ident)
        }),
    }
}

/// The name of the initial step.
fn initial_name(machine: &MachineEnum) -> TokenStream {
    let named = |step: &Variant| step.name.to_token_stream();
    match &machine.options.initial {
        Some(initial) => {
            machine.steps.iter().find(|step| step.ident == *initial).map(named).unwrap_or_default()
        }
        None => first(&machine.steps, named),
    }
}

/// Returns the tokens that `of` makes of the first variant that the configuration leaves in. The
/// compiler picks this variant by `#[cfg(…)]`, as a macro does not know the configuration.
fn first(steps: &[Variant], of: impl Copy + Fn(&Variant) -> TokenStream) -> TokenStream {
    let Some((step, rest)) = steps.split_first() else { return TokenStream::new() };
    let step_tokens = of(step);
    let predicates = step.cfgs.iter().filter_map(|cfg| Some(&cfg.meta.require_list().ok()?.tokens));
    let predicates: Vec<_> = predicates.collect();
    if predicates.is_empty() {
        return step_tokens;
    }
    let rest = first(rest, of);
    quote! {{
        #[cfg(all(#(#predicates),*))]
        { #step_tokens }
        #[cfg(not(all(#(#predicates),*)))]
        { #rest }
    }}
}

/// The functions `insert`, `insert_many` and `by_key`. A function is left out if a step wrongly has
/// its name.
fn helpers(machine: &MachineEnum) -> TokenStream {
    let private = alias();
    let (ident, vis) = (&machine.item.ident, visibility(machine));
    let state = state(machine);
    let insert = free(machine, "insert").then(|| {
        quote! {
            /// A new instance with this state; `.execute(…)` inserts it.
            #vis fn insert(state: #state) -> #private::Insert<Self> {
                #private::Insert::new(state)
            }
        }
    });
    let insert_many = free(machine, "insert_many").then(|| {
        quote! {
            /// Any number of new instances, from states or from inserts with options;
            /// `.execute(…)` inserts them.
            #vis fn insert_many<__I: #private::IntoInsert<Self>>(
                inserts: impl ::core::iter::IntoIterator<Item = __I>,
            ) -> #private::InsertMany<Self> {
                #private::InsertMany::new(inserts)
            }
        }
    });
    let by_key = free(machine, "by_key").then(|| {
        quote! {
            /// The instance that holds this unique key. Each call that takes an id takes it.
            #vis fn by_key(
                key: impl ::core::convert::Into<#private::String>,
            ) -> #private::InstanceKey<Self> {
                #private::InstanceKey::new(key)
            }
        }
    });
    quote! {
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
        impl #ident {
            #insert
            #insert_many
            #by_key
        }

        #[automatically_derived]
        impl #private::IntoInsert<#ident> for #state {
            fn into_insert(self) -> #private::Insert<#ident> {
                #private::Insert::new(self)
            }
        }
    }
}

/// The visibility of generated functions, which is the enum's. The functions of a private enum are
/// public: in code that cannot see the enum, the compiler then reports the enum alone.
fn visibility(machine: &MachineEnum) -> Visibility {
    match &machine.item.vis {
        Visibility::Inherited => parse_quote!(pub),
        vis => vis.clone(),
    }
}

/// True if no step has this name.
fn free(machine: &MachineEnum, name: &str) -> bool {
    machine.steps.iter().all(|step| step.name != name)
}

/// The functions `signal`, and `signal_<name>` for each declared signal.
fn signals(machine: &MachineEnum) -> TokenStream {
    let signals = distinct_signals(machine);
    let private = alias();
    let (ident, vis) = (&machine.item.ident, visibility(machine));
    let signal = free(machine, "signal").then(|| {
        quote! {
            /// A signal to an instance, of any type that the machine declares; `.execute(…)`
            /// sends it.
            #vis fn signal<__S: #private::DurableSignal>(
                to: impl #private::Address<Self>,
                payload: __S,
            ) -> #private::Signal<Self>
            where
                Self: #private::Accepts<__S>,
            {
                #private::Signal::new(to, &payload)
            }
        }
    });
    let helpers = signals
        .iter()
        .filter(|(signal, helper)| ended(signal).is_none() && free(machine, &helper.to_string()))
        .map(|(signal, helper)| signal_fn(machine, helper, signal));
    let accepts = signals.iter().map(|(signal, _)| {
        let private = private_at(&alias(), signal.span());
        quote_spanned! {signal.span()=>
            #[automatically_derived]
            impl #private::Accepts<#signal> for #ident {}
        }
    });
    quote! {
        #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
        impl #ident {
            #signal
            #(#helpers)*
        }

        #(#accepts)*
    }
}

/// The declared signals with the names of their functions, each name once.
fn distinct_signals(machine: &MachineEnum) -> Vec<(&Path, Ident)> {
    let mut distinct: Vec<(&Path, Ident)> = Vec::new();
    for signal in &machine.options.signals {
        if let Some(helper) = signal_helper(signal)
            && distinct.iter().all(|(_, other)| *other != helper)
        {
            distinct.push((signal, helper));
        }
    }
    distinct
}

fn signal_fn(machine: &MachineEnum, helper: &Ident, signal: &Path) -> TokenStream {
    let private = alias();
    let vis = visibility(machine);
    let body = private_at(&alias(), signal.span());
    let body = quote_spanned!(signal.span()=> #body::Signal::new(to, &payload));
    let doc = format!(" A [`{}`] to an instance; `.execute(…)` sends it.", compact(signal));
    quote! {
        #[doc = #doc]
        #vis fn #helper(
            to: impl #private::Address<Self>,
            payload: #signal,
        ) -> #private::Signal<Self> {
            #body
        }
    }
}

/// Checks that the compiler makes when it evaluates constants: the impl block is not known before.
fn checks(machine: &MachineEnum, correct: bool) -> TokenStream {
    let private = alias();
    let ident = &machine.item.ident;
    let signals = distinct_signals(machine).into_iter().enumerate().skip(1).map(|(index, (signal, _))| {
        let message = format!(
            "the signal `{0}` has the name of another that `{ident}` declares: give `{0}` a name of its own with `#[durable(name = \"…\")]`",
            compact(signal)
        );
        let private = private_at(&alias(), signal.span());
        quote_spanned! {signal.span()=>
            const _: () = #private::name_is_new(SIGNALS, #index, #message);
        }
    });
    let signals: Vec<_> = signals.collect();
    let others = distinct_signals(machine).into_iter().enumerate();
    let others = others.filter(|(_, (signal, _))| ended(signal).is_none());
    let others = others.map(|(index, (signal, _))| {
        let message = format!(
            "the signal `{0}` has a name that is reserved for the reports of ended instances: declare a report as `Ended<Parcel>`, by this name, and name other signals otherwise",
            compact(signal)
        );
        let private = private_at(&alias(), signal.span());
        quote_spanned! {signal.span()=>
            const _: () = #private::is_no_report(SIGNALS, #index, #message);
        }
    });
    let reports: Vec<_> = others.collect();
    let declared = (!signals.is_empty() || !reports.is_empty()).then(
        || quote!(const SIGNALS: &[&#private::str] = <#ident as #private::Machine>::SIGNALS;),
    );
    let upgrade = upgrade_checks(machine);
    let steps = (!machine.options.retired).then(|| step_checks(machine, correct));
    quote! {
        const _: () = {
            #declared
            #(#signals)*
            #(#reports)*
            #upgrade
            #steps
        };
    }
}

/// Checks that each variant has a step, and warns at each variant whose step nothing reaches.
fn step_checks(machine: &MachineEnum, correct: bool) -> TokenStream {
    let private = alias();
    let ident = &machine.item.ident;
    let name = ident.to_string();
    let initial = correct.then(|| initial_name(machine));
    let on_cancel = machine.options.on_cancel.as_ref().filter(|_| correct);
    let on_cancel = on_cancel.and_then(|named| {
        let step = machine.steps.iter().find(|step| step.ident == *named)?;
        Some(step.name.to_token_stream())
    });
    let steps = machine.steps.iter().zip(&machine.item.variants).enumerate();
    let steps = steps.filter(|(_, (step, _))| machine.taken(&step.name).is_none());
    let steps = steps.filter_map(|(index, (step, variant))| {
        let (cfgs, name) = (&step.cfgs, &step.name);
        let (function, variant_name) = (function_name(name)?, step.ident.to_string());
        let initial = initial
            .as_ref()
            .filter(|initial| initial.to_string() != name.to_token_stream().to_string());
        let reached = initial.map(|_| reached(step, on_cancel.is_some()));
        let check = quote_spanned! {step.ident.span()=>
            CHECKS.variant_has_step(#index, #name, #variant_name, #function)
        };
        let check = if reached.is_some() { quote!({ #check; #reached }) } else { check };
        let lints =
            reached.iter().flat_map(|_| lints(&machine.item.attrs).chain(lints(&variant.attrs)));
        Some(quote_spanned! {step.ident.span()=>
            #(#cfgs)* #(#lints)*
            const _: () = #check;
        })
    });
    let initial = initial.as_ref().map(|initial| quote!(const INITIAL: &#private::str = #initial;));
    let on_cancel = on_cancel.as_ref().map(|step| quote!(const ON_CANCEL: &#private::str = #step;));
    let retry = machine.options.retry.as_ref().map(|retry| {
        quote_spanned! {retry.at=>
            const _: () = CHECKS.has_no_handle(
                "`retry` stands in for `handle`, and this machine has one: remove `retry`, or call `Retry::decide` in `handle`",
            );
        }
    });
    // The span is the enum's name: the compiler reports there that the enum has no impl block.
    quote_spanned! {ident.span()=>
        const CHECKS: &#private::Checks = &#private::Checks {
            machine: #name,
            steps: <#ident as #private::Machine>::STEPS,
            functions: <#ident as #private::StepsInOneImplBlock>::FUNCTIONS,
        };
        #initial
        #on_cancel
        #(#steps)*
        #retry
    }
}

/// Warns if nothing reaches this step. On a stable compiler, a macro has no warning of its own. It
/// can make a value that must be used, and not use it. The level of the lint `unused_must_use`
/// applies, also if it is set on the variant or on the enum.
fn reached(step: &Variant, on_cancel: bool) -> TokenStream {
    let (at, name) = (step.ident.span(), &step.name);
    let private = private_at(&alias(), at);
    let cancel = on_cancel.then(|| quote_spanned!(at=> || CHECKS.reach(#name, ON_CANCEL)));
    quote_spanned!(at=> #private::Reached::<{ CHECKS.reach(#name, INITIAL) #cancel }>::step();)
}

/// Checks that the version that is upgraded is a lower one of the same machine.
fn upgrade_checks(machine: &MachineEnum) -> Option<TokenStream> {
    let ident = &machine.item.ident;
    let older = machine.options.upgrades.as_ref()?;
    let text = compact(older);
    let not_lower = format!(
        "`{ident}` upgrades `{text}`, whose version is not lower than {}: give `{ident}` the next `version`",
        machine.options.version.unwrap_or(1)
    );
    let another = format!(
        "`{ident}` upgrades `{text}`, which has another name in the database: give both the same `name = \"…\"`"
    );
    let (begin, end) = ends(older);
    let at = private_at(&alias(), begin);
    // The call begins at the type's first token and ends at its last, so that the compiler
    // underlines the whole type.
    let (not_lower, another) =
        (quote_spanned!(end=> (#not_lower)), quote_spanned!(end=> (#another)));
    Some(quote_spanned! {begin=>
        const _: () = #at::upgrades_an_older_version::<#ident> #not_lower;
        const _: () = #at::upgrades_the_same_machine::<#ident> #another;
    })
}

/// The attributes that set the level of lints.
fn lints(attrs: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    let levels = ["allow", "warn", "deny", "forbid"];
    attrs.iter().filter(move |attr| levels.iter().any(|level| attr.path().is_ident(level)))
}

fn state(machine: &MachineEnum) -> TokenStream {
    machine.options.state.as_ref().map_or_else(|| quote!(()), |state| quote!(#state))
}
