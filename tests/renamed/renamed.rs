//! Tests that each use of a macro gives one error if `gen_durable` has another name that no option
//! states.

#[test]
fn p60_a_renamed_dependency_is_one_error_for_each_macro() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
}
