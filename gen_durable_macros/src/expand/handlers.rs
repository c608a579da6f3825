//! The impl block's expansion: `impl Steps`, and the check that each step has its variant.
//!
//! Invariant: the block is emitted as it stands, with untouched bodies. It only loses `#[step(…)]`,
//! and gets an `allow` for each step and the bound that its enum is a machine. The compiler reports
//! a step's own errors (a future that is not `Send`, a wrong return type) at the step.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{ImplItem, ItemImpl, Path, Type, parse_quote, spanned::Spanned};

use super::{
    diagram, duration,
    import::{Hint, import},
    limits::limits,
    private_at, retry_policy,
};
use crate::{
    ast::{MachineImpl, StepFn, WhyNot, ends, why_not},
    attr::is_step,
    graph::unreachable,
    names::camel_case,
};

pub(crate) fn expand(machine: &MachineImpl, krate: Option<&Path>, correct: bool) -> TokenStream {
    let items = items(machine, correct);
    // The impl of a trait is a mistake, and no code is generated beside it.
    let import =
        machine.item.trait_.is_none().then(|| import(krate, &machine.import, Hint::Option));
    quote!(#import #items)
}

/// The block and the code beside it, which needs the import of `gen_durable`.
pub(super) fn items(machine: &MachineImpl, correct: bool) -> TokenStream {
    let item = block(machine);
    if item.trait_.is_some() || has_arguments(&item.self_ty) {
        return quote!(#item);
    }
    let functions = step_functions(machine, correct);
    let steps = if correct { steps(machine) } else { stub(machine) };
    let checks = checks(machine);
    quote!(#item #functions #steps #checks)
}

/// True if a type is generic: the impl of a trait would then need the block's parameters.
fn has_arguments(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.iter().any(|segment| !segment.arguments.is_none()),
        _ => true,
    }
}

/// The block as it stands, without the options of its steps. Clippy accepts a step that awaits
/// nothing: the engine requires that it is async. The block has a bound that its enum is a machine.
/// If the enum is none, the compiler reports this bound alone, and no place in a body.
fn block(machine: &MachineImpl) -> ItemImpl {
    let mut item = machine.item.clone();
    if item.trait_.is_none() {
        let is_machine = is_machine(machine);
        item.generics.make_where_clause().predicates.push(parse_quote!(#is_machine));
    }
    for item in &mut item.items {
        if let ImplItem::Fn(function) = item {
            function.attrs.retain(|attr| !is_step(attr));
            if why_not(function).is_none() {
                function.attrs.push(parse_quote!(#[allow(clippy::unused_async)]));
            }
        }
    }
    item
}

/// The bound that the enum is a machine. Each use of it has the span of the machine's name: the
/// compiler shows the same error about one place only once.
fn is_machine(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    quote_spanned!(machine.item.self_ty.span()=> Self: #private::Machine)
}

fn step_functions(machine: &MachineImpl, correct: bool) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let cfgs = machine.steps.iter().map(|step| &step.cfgs);
    let names = machine.steps.iter().map(|step| &step.name);
    let other_cfgs = machine.others.iter().map(|other| &other.cfgs);
    let other_names = machine.others.iter().map(|other| &other.name);
    let handle = machine.handle.is_some();
    let unreachable = if correct { unreachable(machine) } else { Vec::new() };
    quote! {
        #[automatically_derived]
        impl #private::StepsInOneImplBlock for #ty {
            const FUNCTIONS: #private::Functions = #private::Functions {
                steps: &[#(#(#cfgs)* #names),*],
                others: &[#(#(#other_cfgs)* #other_names),*],
                handle: #handle,
                unreachable: &[#(&[#(#unreachable),*]),*],
            };
        }
    }
}

fn steps(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let [cx, error, resources] =
        ["cx", "error", "resources"].map(|name| local(machine, name, ty.span()));
    let arms = machine.steps.iter().map(|step| {
        let (cfgs, name) = (&step.cfgs, &step.name);
        let call = if step.transaction.is_some() {
            quote!({ let _ = #cx; #private::takes_a_transaction(#name) })
        } else {
            call(machine, step, &["cx"])
        };
        quote!(#(#cfgs)* #name => #call,)
    });
    let transactions = transactions(machine);
    let handle = machine.handle.as_ref().map(|handle| {
        let cfgs = &handle.cfgs;
        let call = if handle.transaction.is_some() {
            quote!({ let _ = (#cx, #error); #private::takes_a_transaction("handle") })
        } else {
            call(machine, handle, &["cx", "error"])
        };
        quote! {
            #(#cfgs)*
            fn handle<'a>(
                #cx: #private::Context<Self>,
                #error: #private::StepError,
                #resources: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                let _ = #resources;
                #call
            }
        }
    });
    let requirements = requirements(machine);
    let machines = quote!(<Self as #private::Machine>);
    let machines_timeout = quote!(#machines::TIMEOUT);
    let timeout = of_steps(machine, "timeout", &quote!(Duration), &machines_timeout, |step| {
        step.options.timeout.map(|timeout| duration(timeout, &private))
    });
    let retry = of_steps(machine, "retry", &quote!(Retry), &quote!(#machines::RETRY), |step| {
        step.options.retry.as_ref().map(|retry| retry_policy(retry, &private))
    });
    let limits = limits(machine, &private);
    let schedule = &machine.schedule;
    let graph = diagram::graph_fn(machine, &private);
    let is_machine = is_machine(machine);
    // The diagram is on the impl of the trait, as rustdoc does not show a block whose functions are
    // all private.
    let documentation = diagram::documentation(machine);
    quote! {
        #[doc = #documentation]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
        impl #private::Steps for #ty
        where
            #is_machine
        {
            // The arms have the names of all variants. Constants beside the two expansions check
            // that each variant has a step, and each step a variant.
            fn run<'a>(
                self,
                #cx: #private::Context<Self>,
                #resources: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                let _ = #resources;
                match #private::Machine::name(&self) {
                    #(#arms)*
                    _ => #private::no_such_step(),
                }
            }

            #handle

            #transactions

            #timeout

            #retry

            #limits

            #requirements

            #schedule

            #graph
        }
    }
}

/// The functions of the trait `Steps` for the code that takes a transaction. Nothing is generated
/// if none does.
fn transactions(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let at = machine.item.self_ty.span();
    let [cx, error, resources, tx] =
        ["cx", "error", "resources", "tx"].map(|name| local(machine, name, at));
    let takers: Vec<_> = machine.steps.iter().filter(|step| step.transaction.is_some()).collect();
    let arms = takers.iter().map(|step| {
        let (cfgs, name, call) = (&step.cfgs, &step.name, call(machine, step, &["cx"]));
        quote!(#(#cfgs)* #name => #call,)
    });
    let steps = (!takers.is_empty()).then(|| {
        let levels = takers.iter().map(|step| {
            let (cfgs, name, level) = (&step.cfgs, &step.name, level(step, &private));
            quote!(#(#cfgs)* #name => #private::Some(#level),)
        });
        quote! {
            fn transaction(&self) -> #private::Option<#private::Isolation> {
                match #private::Machine::name(self) {
                    #(#levels)*
                    _ => #private::None,
                }
            }

            fn run_in<'a>(
                self,
                #cx: #private::Context<Self>,
                #resources: &'a #private::Resources,
                #tx: &'a mut #private::PgConnection,
            ) -> #private::StepFuture<'a, Self> {
                match #private::Machine::name(&self) {
                    #(#arms)*
                    _ => #private::Steps::run(self, #cx, #resources),
                }
            }
        }
    });
    let handle = machine.handle.as_ref().filter(|handle| handle.transaction.is_some());
    let handle = handle.map(|handle| {
        let (cfgs, level) = (&handle.cfgs, level(handle, &private));
        let call = call(machine, handle, &["cx", "error"]);
        quote! {
            #(#cfgs)*
            fn handle_transaction() -> #private::Option<#private::Isolation> {
                #private::Some(#level)
            }

            #(#cfgs)*
            fn handle_in<'a>(
                #cx: #private::Context<Self>,
                #error: #private::StepError,
                #resources: &'a #private::Resources,
                #tx: &'a mut #private::PgConnection,
            ) -> #private::StepFuture<'a, Self> {
                let _ = #resources;
                #call
            }
        }
    });
    quote!(#steps #handle)
}

/// The isolation level of a transaction.
fn level(step: &StepFn, private: &Ident) -> TokenStream {
    let level =
        step.options.isolation.as_ref().map_or("ReadCommitted", |isolation| isolation.level);
    let level = Ident::new(level, Span::call_site());
    quote!(#private::Isolation::#level)
}

/// The boxed call of a step. The compiler reports its errors in the user's own code: at the step's
/// name, or at the return type if that is wrong.
fn call(machine: &MachineImpl, step: &StepFn, arguments: &[&str]) -> TokenStream {
    let ident = &step.ident;
    let at = ident.span();
    let private = private_at(&machine.import, at);
    let arguments = arguments.iter().map(|name| local(machine, name, at));
    let given = local(machine, "resources", at);
    let mut parameters: Vec<_> = step
        .resources
        .iter()
        .map(|resource| quote_spanned!(at=> #given.get::<#resource>()))
        .collect();
    if let Some(place) = step.transaction {
        let tx = local(machine, "tx", at);
        parameters.insert(place, quote_spanned!(at=> #tx));
    }
    let returned = quote_spanned!(step.output=> returned);
    let result = quote_spanned!(at=> #private::IntoStepResult::<Self>::into_step_result(#returned));
    let result = if step.trusted {
        let targets = step.flow.targets();
        quote_spanned!(at=> #private::going_to(#result, &[#(#targets),*]))
    } else {
        result
    };
    quote_spanned! {at=>
        #private::Box::pin(async move {
            let #returned = Self::#ident(#(#arguments),* #(, #parameters)*).await;
            #result
        })
    }
}

/// A local name of the expansion. It resolves as if it stood beside the machine's name, also if a
/// macro of the user's wrote the step's name.
///
/// The steps' futures lie in the user's code and capture these names. For a captured name that came
/// from this macro, the compiler would look up the place at which the macro was used. This place
/// counts as part of the module around it. Each new item in the module would then have all futures
/// compiled again.
fn local(machine: &MachineImpl, name: &str, at: Span) -> Ident {
    Ident::new(name, at.resolved_at(machine.item.self_ty.span()))
}

/// A function of the trait `Steps` that returns a step's own value of an option, or else that of
/// all other steps. Nothing is generated if no step has a value of its own.
pub(super) fn of_steps(
    machine: &MachineImpl,
    function: &str,
    ty: &TokenStream,
    otherwise: &TokenStream,
    of: impl Fn(&StepFn) -> Option<TokenStream>,
) -> TokenStream {
    let private = private(machine);
    let function = Ident::new(function, Span::call_site());
    let arms: Vec<_> = machine
        .steps
        .iter()
        .filter_map(|step| {
            let (cfgs, name, value) = (&step.cfgs, &step.name, of(step)?);
            Some(quote!(#(#cfgs)* #name => #private::Some(#value),))
        })
        .collect();
    if arms.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn #function(&self) -> #private::Option<#private::#ty> {
            match #private::Machine::name(self) {
                #(#arms)*
                _ => #otherwise,
            }
        }
    }
}

fn requirements(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let functions = machine.steps.iter().chain(&machine.handle);
    let requirements: Vec<_> = functions
        .flat_map(|step| {
            let private = private_at(&machine.import, step.ident.span());
            step.resources.iter().map(move |resource| {
                let (cfgs, name) = (&step.cfgs, &step.name);
                quote_spanned!(step.ident.span()=>
                    #(#cfgs)* #private::Requirement::of::<#resource>(#name)
                )
            })
        })
        .collect();
    if requirements.is_empty() {
        return TokenStream::new();
    }
    quote! {
        fn requirements() -> #private::Vec<#private::Requirement> {
            #private::Vec::from([#(#requirements),*])
        }
    }
}

/// An `impl Steps` that runs nothing, for a machine with mistakes. It keeps the compiler from
/// reporting errors that only follow from these.
fn stub(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let is_machine = is_machine(machine);
    quote! {
        #[automatically_derived]
        impl #private::Steps for #ty
        where
            #is_machine
        {
            fn run<'a>(
                self,
                _: #private::Context<Self>,
                _: &'a #private::Resources,
            ) -> #private::StepFuture<'a, Self> {
                ::core::panic!("the machine has mistakes")
            }
        }
    }
}

/// Checks that the compiler makes when it evaluates constants: the variants are not known before.
fn checks(machine: &MachineImpl) -> TokenStream {
    let private = private(machine);
    let ty = &machine.item.self_ty;
    let name = machine.machine();
    let steps = machine.steps.iter().enumerate().map(|(index, step)| {
        let (cfgs, name, variant) = (&step.cfgs, &step.name, camel_case(&step.name));
        quote_spanned! {step.ident.span()=>
            #(#cfgs)*
            const _: () = CHECKS.step_has_variant(#index, #name, #variant);
        }
    });
    let others = machine.others.iter().map(|other| {
        let (cfgs, name) = (&other.cfgs, &other.name);
        let message = match other.why {
            WhyNot::NotAsync => format!("the step `{name}` must be async: write `async fn {name}`"),
            WhyNot::Borrowed => format!(
                "the step `{name}` must own its context, as every outcome consumes it: write `cx: Context<Self>`"
            ),
            WhyNot::NoContext => format!(
                "the step `{name}` must take the context first: write `async fn {name}(cx: Context<Self>)`, and resources behind it"
            ),
        };
        let (begin, end) = other.at;
        let arguments = quote_spanned!(end=> (#name, #message));
        quote_spanned! {begin=>
            #(#cfgs)*
            const _: () = CHECKS.is_no_step #arguments;
        }
    });
    let state = state_check(machine);
    quote! {
        const _: () = {
            #state
            const CHECKS: &#private::Checks = &#private::Checks {
                machine: #name,
                steps: <#ty as #private::Machine>::STEPS,
                functions: <#ty as #private::StepsInOneImplBlock>::FUNCTIONS,
            };
            #(#steps)*
            #(#others)*
        };
    }
}

/// Checks that the machine has a state if its code names a field of the state. Only the enum tells
/// this. Without the check, the compiler only says that `()` has no such field.
fn state_check(machine: &MachineImpl) -> Option<TokenStream> {
    let mut functions = machine.steps.iter().chain(&machine.handle);
    let (step, field) = functions.find_map(|step| Some((step, step.uses.field.as_ref()?)))?;
    let (private, ty, cfgs) = (private(machine), &machine.item.self_ty, &step.cfgs);
    let name = machine.machine();
    let message = format!(
        "`{name}` has no state, and so no field `{field}` in it: write `#[durable_fsm(state = {name}State)]` on the enum, with a type of yours that has the field and derives `DurableState`",
        field = field.name
    );
    let (begin, end) = ends(&field.tokens);
    let at = private_at(&machine.import, begin);
    let arguments = quote_spanned!(end=> (
        #private::StateOf::<<#ty as #private::Machine>::State>::IS_NONE, #message
    ));
    Some(quote_spanned! {begin=>
        #(#cfgs)*
        const _: () = {
            #[allow(unused_imports)]
            use #private::HasState as _;
            #at::has_state #arguments
        };
    })
}

/// The import's name, with the span of the machine's name: the compiler reports there that the type
/// is no machine.
fn private(machine: &MachineImpl) -> Ident {
    private_at(&machine.import, machine.item.self_ty.span())
}
