//! What the macros say where `gen_durable` has another name: one error for each of them.

#[test]
fn p60_a_renamed_dependency_is_one_error_for_each_macro() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
}
