use gen_durable::testing::PgPool;

async fn tables(pool: PgPool) -> Result<(), String> {
    let _ = pool;
    Ok(())
}

#[gen_durable::test(setup = tables, setup = tables)]
async fn given_twice(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(set_up = tables)]
async fn misspelt(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(queue = "mail")]
async fn unknown(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(setup)]
async fn without_value(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(setup = "tables")]
async fn quoted(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(setup = |pool| tables(pool))]
async fn closure(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test(tables)]
async fn bare(pool: PgPool) {
    let _ = pool;
}

fn main() {}
