/// An order is shipped.
#[cfg(unix)]
#[::core::prelude::v1::test]
pub fn shipped() -> Result<(), Error> {
    macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
        () => {
            use ::gen_durable::__private as __gen_durable;
        };
    }
    if_gen_durable_has_another_name_write_crate_equals_that_name! {}
    #[allow(clippy::unused_async)]
    async fn shipped(pool: PgPool) -> Result<(), Error> {
        ship(&pool).await
    }
    __gen_durable::run_test(
        __gen_durable::Setup::new("crate::tables", crate::tables),
        |pool| shipped(pool),
    )
}
