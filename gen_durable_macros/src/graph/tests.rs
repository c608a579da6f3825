//! Tests of the edges that are read from a body, and of the code that makes a step opaque.

use quote::quote;
use syn::{FnArg, ImplItem, Item, ItemImpl, Visibility, parse_quote};

use super::{Edge, Uses, unreachable};
use crate::{ast::MachineImpl, errors::Errors};

/// An impl block with the steps `a`, which has this body, `ship` and `cancel`.
fn with_body(body: &proc_macro2::TokenStream) -> ItemImpl {
    parse_quote! {
        impl M {
            async fn a(mut cx: Context<Self>) -> StepResult<Self> { #body }
            async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
            async fn cancel(cx: Context<Self>) -> Outcome<Self> { cx.stop("no") }
        }
    }
}

fn read(item: ItemImpl) -> (MachineImpl, String) {
    let mut errors = Errors::default();
    let machine = MachineImpl::new(item, &mut errors);
    (machine, errors.report().to_string())
}

/// The edges of `a` in a few words, and `?` if it is opaque.
fn edges(body: &proc_macro2::TokenStream) -> String {
    let (machine, errors) = read(with_body(body));
    assert_eq!(errors, "");
    words(&machine)
}

fn words(machine: &MachineImpl) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".to_owned());
    let flow = &machine.steps[0].flow;
    let mut words: Vec<String> = flow
        .edges
        .iter()
        .map(|edge| match edge {
            Edge::Next { step, delayed: false, .. } => step.clone(),
            Edge::Next { step, delayed: true, .. } => format!("later {step}"),
            Edge::Replay => "replay".to_owned(),
            Edge::Snooze => "snooze".to_owned(),
            Edge::Await { signal, timeout: false } => format!("await {signal}"),
            Edge::Await { signal, timeout: true } => format!("await {signal} for"),
            Edge::Done => "done".to_owned(),
            Edge::Stop => "stop".to_owned(),
            Edge::Insert { machine } => format!("insert {}", name(machine)),
            Edge::Spawn { machine } => format!("spawn {}", name(machine)),
            Edge::Signal { machine, signal } => {
                format!("signal {} {}", name(machine), name(signal))
            }
        })
        .collect();
    if flow.opaque {
        words.push("?".to_owned());
    }
    words.join(", ")
}

#[test]
fn outcomes_wherever_they_stand() {
    for (body, expected) in [
        (quote!(Ok(cx.next(M::Ship))), "ship"),
        (quote!(Ok(cx.next(Self::Ship))), "ship"),
        (quote!(Ok(cx.next(Ship))), "ship"),
        (quote!(Ok(cx.next(crate::machines::M::Ship))), "ship"),
        (quote!(Ok(cx.next_in(M::Ship, Duration::from_secs(1)))), "later ship"),
        (
            quote! {
                match cx.state.n {
                    0 => Ok(cx.next(M::Ship)),
                    1 if cx.attempt() > 1 => return Ok(cx.stop(format!("at {}", cx.id()))),
                    2 => Ok(cx.replay(delay)),
                    3 => Ok(cx.snooze(delay)),
                    _ => Ok(cx.done(())),
                }
            },
            "ship, stop, replay, snooze, done",
        ),
        (
            quote! {
                let Some(paid) = cx.take_signal::<Paid>()? else {
                    return Ok(cx.await_signal::<crate::Paid>());
                };
                Ok(cx.await_signal_for::<Paid>(wait))
            },
            "await paid, await paid for",
        ),
        (
            quote!(Ok(cx.await_any::<(Paid, CancelledByUser)>())),
            "await paid, await cancelled_by_user",
        ),
        (quote!(Ok(cx.await_any_for::<(Paid, Gone)>(wait))), "await paid for, await gone for"),
        (quote!(Ok(cx.await_signal_until::<Paid>(end))), "await paid for"),
        (quote!(Ok(cx.await_count::<Paid>(3))), "await paid"),
        (quote!(Ok(cx.await_count_for::<Ended<a::Line>>(3, end))), "await ended(line) for"),
        (
            quote!(Ok(cx.await_any::<(gen_durable::Ended<Line>, Ended)>())),
            "await ended(line), await ended",
        ),
        (quote!(Ok(cx.await_any_until::<(Paid, Gone)>(end))), "await paid for, await gone for"),
        (
            quote!(Ok(items
                .iter()
                .fold(None, |_, x| Some(x))
                .map_or_else(|| cx.done(()), |_| cx.next(M::Ship)))),
            "done, ship",
        ),
        (quote!(async move { Ok(cx.next(M::Ship)) }.await), "ship"),
        (quote!(let mut cx = cx; Ok(cx.next(M::Ship))), "ship"),
        (quote!(let outcome = cx.next(M::Ship); Ok(outcome)), "ship"),
        (quote!(begin(&mut cx); look(&cx); log!("{}", cx.id()); Ok(cx.done(()))), "done"),
        (quote!(cx.state.cx = 1; Ok(cx.done(self.cx))), "done"),
        (quote!(Err(broken())?), ""),
    ] {
        assert_eq!(edges(&body), expected, "{body}");
    }
}

#[test]
fn targets_in_branches_and_in_macros() {
    for (body, expected) in [
        (quote!(Ok(cx.next(if paid { M::Ship } else { M::Cancel }))), "ship, cancel"),
        (
            quote!(Ok(cx.next(match x {
                1 => M::Ship,
                _ => return Ok(cx.done(())),
            }))),
            "ship, done",
        ),
        (
            quote!(Ok(cx.next({
                log();
                (M::Ship)
            }))),
            "ship",
        ),
        (quote!(wrap!(Ok(cx.next(M::Ship)))), "ship"),
        (
            quote!(select! { _ = a => Ok(cx.next(M::Ship)), b = c => { Ok(cx.done(())) } }),
            "ship, done",
        ),
    ] {
        assert_eq!(edges(&body), expected, "{body}");
    }
}

#[test]
fn what_cannot_be_read_is_opaque() {
    for (body, expected) in [
        (quote!(Ok(cx.next(next))), "?"),
        (quote!(Ok(cx.next(choose(1)))), "?"),
        (quote!(Ok(cx.next(M::NEXT))), "?"),
        (quote!(Ok(cx.next(<M as Machine>::INITIAL))), "?"),
        (quote!(Ok(cx.next(M::Unknown))), "?"),
        (quote!(Ok(cx.next(if paid { M::Ship } else { other }))), "ship, ?"),
        (quote!(finish(cx)), "?"),
        (quote!(Self::finish(cx, M::Ship).await), "?"),
        (quote!(Context::next(cx, M::Ship)), "?"),
        (quote!(Ok(cx.finish())), "?"),
        (quote!(let other = cx; Ok(other.done(()))), "?"),
        (quote!(wrap!(cx)), "?"),
        (quote!(if x { return finish(cx); } Ok(cx.done(()))), "done, ?"),
    ] {
        assert_eq!(edges(&body), expected, "{body}");
    }
    let (machine, _) = read(parse_quote! {
        impl M { async fn a(Context { state, .. }: Context<Self>) -> Outcome<Self> { todo() } }
    });
    assert_eq!(words(&machine), "?");
    let (machine, _) = read(parse_quote! {
        impl M { async fn a(_: Context<Self>) -> StepResult<Self> { Err(broken()) } }
    });
    assert_eq!(words(&machine), "");
}

#[test]
fn what_an_outcome_carries() {
    for (body, expected) in [
        (quote!(Ok(cx.done(()).insert(Line::insert(1)))), "done, insert Line"),
        (quote!(Ok(cx.done(()).insert_many((1..9).map(lines::Line::insert)))), "done, insert Line"),
        (quote!(Ok(cx.next(M::Ship).spawn((1..9).map(Line::insert)))), "ship, spawn Line"),
        (
            quote!(let lines = Line::insert_many(n); Ok(cx.next(M::Ship).spawn(lines))),
            "ship, spawn Line",
        ),
        (
            quote!(Ok(cx.next(M::Ship).spawn(children()).insert(Page::insert(1)))),
            "ship, spawn ?, insert Page",
        ),
        (
            quote!(let outcome = cx.next(M::Ship); Ok(outcome.spawn([Self::insert(1)]))),
            "ship, spawn M",
        ),
        (quote!(Ok(cx.done(()).insert(Self::insert(1).step(Self::Ship)))), "done, insert M"),
        (
            quote! {
                let mut children: Vec<Insert<Line>> = lines.map(|line| Line::insert(line)).collect();
                children.push(more);
                Ok(cx.next(M::Ship).insert_many(children).signal(Text::signal_line_ended(id, Ended)))
            },
            "ship, insert Line, signal Text line_ended",
        ),
        (quote!(Ok(cx.done(()).signal(Text::signal(id, Ended)))), "done, signal Text ?"),
        (
            quote!(let answer = cx.state.answer(); Ok(cx.done(()).signal(answer))),
            "done, signal ? ?",
        ),
        (
            quote!(let outcome = cx.done(()); Ok(outcome.insert(Line::insert(1)))),
            "done, insert Line",
        ),
        (quote!(cx.state.map.insert(1, 2); set.insert(x); Ok(cx.done(()))), "done"),
    ] {
        assert_eq!(edges(&body), expected, "{body}");
    }
}

#[test]
fn declared_targets() {
    let (machine, errors) = read(parse_quote! {
        impl M {
            #[step(next(Ship, A))]
            async fn a(cx: Context<Self>) -> StepResult<Self> { go(cx) }
            async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
        }
    });
    assert_eq!((&*words(&machine), &*errors), ("ship, a", ""));
    assert!(machine.steps[0].trusted);
    let (machine, errors) = read(parse_quote! {
        impl M {
            #[step(next())]
            async fn a(cx: Context<Self>) -> StepResult<Self> { Ok(cx.next(Self::Ship)) }
            #[step(next(Shp))]
            async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
        }
    });
    assert!(!machine.steps[0].trusted);
    assert!(errors.contains("the step `a` goes to `Ship`, which it does not declare"), "{errors}");
    assert!(errors.contains("`Shp` is no step of this machine; did you mean `Ship`?"), "{errors}");
}

#[test]
fn unreachable_steps_are_those_that_no_step_leads_to() {
    for (item, expected) in [
        (
            parse_quote!(impl M {
                async fn a(cx: Context<Self>) -> Outcome<Self> { cx.next(M::B) }
                async fn b(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
                async fn c(cx: Context<Self>) -> Outcome<Self> { cx.next(M::B) }
            }),
            "[[\"a\"], [\"c\"]]",
        ),
        (
            parse_quote!(impl M {
                async fn a(cx: Context<Self>) -> Outcome<Self> { cx.next(M::B) }
                async fn b(cx: Context<Self>) -> Outcome<Self> { if x { cx.next(M::A) } else { cx.next(M::C) } }
                async fn c(cx: Context<Self>) -> Outcome<Self> { cx.next(M::C) }
            }),
            "[[\"a\", \"b\"]]",
        ),
        (
            parse_quote!(impl M {
                async fn a(cx: Context<Self>) -> Outcome<Self> { cx.done(()).insert(M::insert(()).step(M::C)) }
                #[step(entry)]
                async fn b(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
                async fn c(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
                async fn d(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
                async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> { cx.next(M::D) }
            }),
            "[[\"a\"]]",
        ),
        (
            parse_quote!(impl M {
                async fn a(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
                async fn b(cx: Context<Self>) -> Outcome<Self> { go(cx) }
            }),
            "[]",
        ),
    ] {
        let (machine, errors) = read(item);
        assert_eq!(errors, "");
        assert_eq!(format!("{:?}", unreachable(&machine)), expected);
    }
}

/// The first late use in a body, as the variable that would hold it.
fn late(body: &proc_macro2::TokenStream) -> String {
    let uses = Uses::read(&parse_quote!(cx), body.clone());
    uses.late.first().map(|late| format!("{} {}", late.outcome, late.of.name)).unwrap_or_default()
}

#[test]
fn a_use_behind_an_outcome_is_late() {
    for (body, expected) in [
        (quote!(cx.replay(f(cx.attempt()))), "cx.replay attempt"),
        (quote!(cx.done(()).insert(M::insert(cx.state.order))), "cx.done order"),
        (quote!(cx.done(all.map_or_else(|| { cx.attempt() }, |x| x))), "cx.done attempt"),
        (quote!(let n = cx.attempt(); cx.replay(f(n))), ""),
        // Here the name is another value's: legal code must compile.
        (quote!(cx.done(circle.cx.powi(2))), ""),
        (quote!(cx.done(all.map(|cx| cx.len()).sum())), ""),
        (quote!(cx.done(all.map(|(cx, cy)| 2 * cx.max(cy)).sum())), ""),
        (quote!(cx.done(all.map(|Circle { cx, .. }| 2.0 * cx.powi(2)).sum())), ""),
        (quote!(cx.done(all.map(|Circle { cx, .. }: Circle| 2.0 * cx.powi(2)).sum())), ""),
        (
            quote!(cx.done({
                let Circle { cx, .. } = circle;
                cx.powi(2)
            })),
            "",
        ),
        (
            quote!(cx.done(match circle {
                Circle { cx, .. } => cx.powi(2),
            })),
            "",
        ),
    ] {
        assert_eq!(late(&body), expected, "{body}");
    }
}

/// If the scan did not know a method of the context, each step that calls it would be opaque.
#[test]
fn each_method_of_a_context_is_known() {
    let runtime = concat!(env!("CARGO_MANIFEST_DIR"), "/../gen_durable/src/machine");
    let mut count = 0;
    for file in ["context.rs", "context/inbox.rs"] {
        let text = std::fs::read_to_string(format!("{runtime}/{file}")).expect("it is there");
        let items = syn::parse_file(&text).expect("it is Rust").items;
        let blocks = items.iter().filter_map(|item| match item {
            Item::Impl(block) if block.trait_.is_none() => Some(&block.items),
            _ => None,
        });
        for item in blocks.flatten() {
            let ImplItem::Fn(method) = item else { continue };
            let sig = &method.sig;
            if !matches!(method.vis, Visibility::Public(_))
                || !matches!(sig.inputs.first(), Some(FnArg::Receiver(_)))
            {
                continue;
            }
            let name = &sig.ident;
            let types = sig.generics.type_params().next().map(|_| quote!(::<(Paid,)>));
            let read = edges(&quote!(cx.#name #types (M::Ship); Ok(cx.done(()))));
            assert!(!read.contains('?'), "`{name}` is not known: {read}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} methods were found");
}
