//! Checks of an enum against its impl block, made while the user's crate is compiled.
//!
//! Invariant: a mistake is reported once, on the user's own span. That is the span of the call, as
//! each function that fails is `#[track_caller]`.

use crate::machine::{Machine, graph::UnreachableStep};

/// The names of the functions of an impl block.
#[derive(Clone, Copy, Debug)]
pub struct Functions {
    /// The functions that are steps.
    pub steps: &'static [&'static str],
    /// The other functions.
    pub others: &'static [&'static str],
    /// True if one of them is `handle`.
    pub handle: bool,
    /// Groups of steps that no step outside of the group leads to.
    pub unreachable: &'static [&'static [&'static str]],
}

impl Functions {
    const fn contain(&self, name: &str) -> bool {
        contains(self.steps, name) || contains(self.others, name)
    }
}

/// An enum and its impl block, as both expansions see them. A message is put together only when its
/// check fails: most checks never do, and text costs the compiler time.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// The enum's name.
    pub machine: &'static str,
    /// The names of the steps that have a variant.
    pub steps: &'static [&'static str],
    /// The impl block.
    pub functions: Functions,
}

impl Checks {
    /// True if the step is in no group of unreachable steps, or in the group of the initial step.
    pub const fn reach(&self, step: &str, initial: &str) -> bool {
        let unreachable = self.functions.unreachable;
        let mut index = 0;
        while index < unreachable.len() {
            if contains(unreachable[index], step) {
                return contains(unreachable[index], initial);
            }
            index += 1;
        }
        true
    }

    /// Fails if the variant of this step has no function. The check looks at `index` first, where
    /// the function is if functions and variants have one order. A search for each of many steps
    /// costs the compiler seconds.
    #[track_caller]
    pub const fn variant_has_step(&self, index: usize, step: &str, variant: &str, function: &str) {
        // If there is a function that is no step, `is_no_step` says why.
        if is_at(self.functions.steps, index, step) || self.functions.contain(step) {
            return;
        }
        let mut index = 0;
        while index < self.functions.steps.len() {
            let function = self.functions.steps[index];
            // One of the two names is misspelt: `step_has_variant` says so.
            if !contains(self.steps, function) && are_near(function, step) {
                return;
            }
            index += 1;
        }
        fail(&[
            "variant `",
            variant,
            "` has no step: write `async fn ",
            function,
            "(cx: Context<Self>) -> Outcome<Self>` in `#[durable_fsm] impl ",
            self.machine,
            "`",
        ]);
    }

    /// Fails if the step of this function has no variant, which would be called `variant`. The
    /// check looks at `index` first, like [`variant_has_step`](Self::variant_has_step).
    #[track_caller]
    pub const fn step_has_variant(&self, index: usize, step: &str, variant: &str) {
        if is_at(self.steps, index, step) || contains(self.steps, step) {
            return;
        }
        let mut index = 0;
        while index < self.steps.len() {
            let other = self.steps[index];
            if !self.functions.contain(other) && are_near(step, other) {
                fail(&[
                    "step `",
                    step,
                    "` has no variant: did you mean `",
                    other,
                    "`, the step of a variant without one?",
                ]);
            }
            index += 1;
        }
        fail(&[
            "step `",
            step,
            "` has no variant: add `",
            variant,
            "` to `enum ",
            self.machine,
            "`; a function that is no step goes in an impl block without `#[durable_fsm]`",
        ]);
    }

    /// Fails if a function that is no step has the name of one.
    #[track_caller]
    pub const fn is_no_step(&self, function: &str, message: &str) {
        assert!(!contains(self.steps, function), "{}", message);
    }

    /// Fails if there is a `handle` beside the retry policy that would stand in for it.
    #[track_caller]
    pub const fn has_no_handle(&self, message: &str) {
        assert!(!self.functions.handle, "{}", message);
    }
}

/// Fails with a message of these parts.
#[track_caller]
const fn fail(parts: &[&str]) -> ! {
    let mut text = Text::new();
    let mut index = 0;
    while index < parts.len() {
        text.push(parts[index]);
        index += 1;
    }
    panic!("{}", text.as_str());
}

/// The type of a machine's state. Its constant `IS_NONE` tells if the machine has no state.
#[derive(Debug)]
pub struct StateOf<S>(std::marker::PhantomData<S>);

impl StateOf<()> {
    /// The machine has no state. An inherent constant takes precedence over a trait's.
    pub const IS_NONE: bool = true;
}

/// The constant `IS_NONE` of a state of any other type.
pub trait HasState {
    /// The machine has a state.
    const IS_NONE: bool = false;
}

impl<S> HasState for StateOf<S> {}

/// Fails if a machine has no state. The generated code calls this where a step names a field of the
/// state.
#[track_caller]
pub const fn has_state(is_none: bool, message: &str) {
    assert!(!is_none, "{}", message);
}

/// Warns of a step that nothing leads to, by the lint `unused_must_use`. A macro on a stable
/// compiler cannot give a warning of its own.
#[derive(Clone, Copy, Debug)]
pub struct Reached<const YES: bool>;

impl Reached<true> {
    /// Gives no warning.
    pub const fn step() {}
}

impl UnreachableStep for Reached<false> {}

impl Reached<false> {
    /// Gives the warning where its result is dropped. The type of the result is opaque: otherwise
    /// the compiler would propose to rewrite the variant.
    pub const fn step() -> impl UnreachableStep + Copy {
        Self
    }
}

/// Fails if a constant that stands for an option's text is empty, is too long or holds a control
/// character.
#[track_caller]
pub const fn is_a_name(text: &str, option: &str) {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        fail(&["`", option, "` is empty: give the constant a name, or leave the option out"]);
    }
    if bytes.len() > crate::keys::NAME_MAX {
        fail(&["`", option, "` has more than 255 bytes: give the constant a shorter name"]);
    }
    let mut index = 0;
    while index < bytes.len() {
        // A control character from U+0080 to U+009F is the byte 0xC2, and then a byte below 0xA0.
        let of_two = bytes[index] == 0xC2 && bytes[index + 1] < 0xA0;
        if bytes[index].is_ascii_control() || of_two {
            fail(&["`", option, "` holds a control character: remove it from the constant"]);
        }
        index += 1;
    }
}

/// Fails if the name at `index` begins like that of a report.
#[track_caller]
pub const fn is_no_report(names: &[&str], index: usize, message: &str) {
    let (name, reserved) = (names[index].as_bytes(), crate::keys::RESERVED.as_bytes());
    let mut same = name.len() >= reserved.len();
    let mut at = 0;
    while same && at < reserved.len() {
        same = name[at] == reserved[at];
        at += 1;
    }
    assert!(!same, "{}", message);
}

/// Fails if the name at `index` also stands before it.
#[track_caller]
pub const fn name_is_new(names: &[&str], index: usize, message: &str) {
    assert!(!contains(names.split_at(index).0, names[index]), "{}", message);
}

/// Fails if the version that `M` upgrades is not lower than its own.
#[track_caller]
pub const fn upgrades_an_older_version<M: Machine>(message: &str) {
    if let Some((_, version)) = M::UPGRADES.before() {
        assert!(version < M::VERSION, "{}", message);
    }
}

/// Fails if the version that `M` upgrades is another machine's.
#[track_caller]
pub const fn upgrades_the_same_machine<M: Machine>(message: &str) {
    if let Some((name, _)) = M::UPGRADES.before() {
        assert!(same(name, M::NAME), "{}", message);
    }
}

const fn is_at(names: &[&str], index: usize, name: &str) -> bool {
    index < names.len() && same(names[index], name)
}

const fn contains(names: &[&str], name: &str) -> bool {
    let mut index = 0;
    while index < names.len() {
        if same(names[index], name) {
            return true;
        }
        index += 1;
    }
    false
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// The longest name that is compared with others, in bytes. It bounds the array for the comparison.
const NAME_MAX: usize = 64;

/// True if one name is probably the other, misspelt: Levenshtein's distance is at most a third of
/// the length.
const fn are_near(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() > NAME_MAX || right.len() > NAME_MAX {
        return false;
    }
    let mut row = [0; NAME_MAX + 1];
    let mut column = 0;
    while column <= right.len() {
        row[column] = column;
        column += 1;
    }
    let mut line = 0;
    while line < left.len() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        column = 0;
        while column < right.len() {
            let replaced = diagonal + (left[line] != right[column]) as usize;
            diagonal = row[column + 1];
            row[column + 1] = min(replaced, min(diagonal, row[column]) + 1);
            column += 1;
        }
        line += 1;
    }
    row[right.len()] <= right.len() / 3
}

const fn min(left: usize, right: usize) -> usize {
    if left < right { left } else { right }
}

/// A text that is put together while the user's crate is compiled.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 512], len: 0 }
    }

    /// Adds `text`, or nothing if it does not fit.
    const fn push(&mut self, text: &str) {
        let text = text.as_bytes();
        if self.len + text.len() > self.bytes.len() {
            return;
        }
        let mut index = 0;
        while index < text.len() {
            self.bytes[self.len] = text[index];
            self.len += 1;
            index += 1;
        }
    }

    const fn as_str(&self) -> &str {
        match core::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "the step has no variant",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Functions = Functions { steps: &[], others: &[], handle: false, unreachable: &[] };

    /// Makes the checks of an enum with variants of these steps and of an impl block.
    fn checks(steps: &'static [&'static str], functions: Functions) -> Checks {
        Checks { machine: "Order", steps, functions }
    }

    #[test]
    fn an_unreachable_step_is_reached_if_instances_begin_there() {
        let checks = checks(&[], Functions { unreachable: &[&["a", "b"], &["c"]], ..NONE });
        assert!(checks.reach("b", "a"));
        assert!(!checks.reach("c", "a"));
        assert!(checks.reach("d", "a"), "a step in no group is reached");
    }

    #[test]
    fn steps_and_variants_of_different_orders_fit() {
        let checks = checks(&["a", "b"], Functions { steps: &["b", "a"], ..NONE });
        for (index, (step, variant)) in [("a", "A"), ("b", "B")].into_iter().enumerate() {
            checks.variant_has_step(index, step, variant, step);
            checks.step_has_variant(index + 7, step, variant);
        }
    }

    #[test]
    #[should_panic(
        expected = "variant `Match` has no step: write `async fn r#match(cx: Context<Self>) -> Outcome<Self>` in `#[durable_fsm] impl Order`"
    )]
    fn a_variant_without_a_step_is_reported() {
        checks(&["match"], NONE).variant_has_step(0, "match", "Match", "r#match");
    }

    #[test]
    fn near_names() {
        assert!(are_near("awiat_pay", "await_pay"));
        assert!(are_near("shp", "ship"));
        assert!(!are_near("ship", "pack"));
        assert!(!are_near("a", "b"));
        assert!(!are_near(&"x".repeat(65), &"x".repeat(65)));
    }

    #[test]
    #[should_panic(expected = "did you mean `await_pay`")]
    fn a_misspelt_step_is_reported_at_the_function() {
        let checks = checks(&["await_pay"], Functions { steps: &["awiat_pay"], ..NONE });
        checks.variant_has_step(0, "await_pay", "reported at the function", "await_pay");
        checks.step_has_variant(0, "awiat_pay", "AwiatPay");
    }

    #[test]
    #[should_panic(expected = "step `refund` has no variant: add `Refund` to `enum Order`;")]
    fn a_step_without_any_variant_is_reported() {
        let checks = checks(&["ship"], Functions { steps: &["ship", "refund"], ..NONE });
        checks.step_has_variant(1, "refund", "Refund");
    }

    #[test]
    #[should_panic(expected = "must be async")]
    fn a_function_that_should_be_a_step_is_reported() {
        let checks = checks(&["ship"], Functions { others: &["ship"], ..NONE });
        checks.variant_has_step(0, "ship", "reported at the function", "ship");
        checks.is_no_step("pack", "no variant is called so");
        checks.is_no_step("ship", "must be async");
    }

    #[test]
    fn names_of_any_language() {
        for name in ["mail", "Grüße", "a b", "\u{a0}", "\u{7ff}", "邮件"] {
            is_a_name(name, "queue");
        }
    }

    #[test]
    fn names_that_nobody_can_read() {
        let long = "ä".repeat(128);
        is_a_name(&long[2..], "queue");
        for name in ["", "a\0", "\n", "\u{7f}", "a\u{80}", "\u{9f}", &long] {
            std::panic::catch_unwind(|| is_a_name(name, "queue")).expect_err(name);
        }
    }

    #[test]
    #[should_panic(expected = "taken")]
    fn a_name_given_twice_is_reported() {
        name_is_new(&["a", "b", "a"], 1, "b is new");
        name_is_new(&["a", "b", "a"], 2, "taken");
    }
}
