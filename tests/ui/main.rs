//! What the macros say of wrong use, and what they accept.
//!
//! Each file in `ui/fail` holds one mistake (or several, where the point is that all are reported) beside the messages
//! that it must give, in a `.stderr` file of its name; each file in `ui/pass` must compile and run. After a change of a
//! message, `TRYBUILD=overwrite cargo test --test ui` writes the `.stderr` files anew: read the difference.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/**/*.rs");
    cases.compile_fail("ui/fail/**/*.rs");
}
