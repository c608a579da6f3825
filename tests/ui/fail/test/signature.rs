use gen_durable::testing::PgPool;

#[gen_durable::test]
fn not_async(pool: PgPool) {
    pool.close().await;
}

#[gen_durable::test]
async fn without_pool() {}

#[gen_durable::test]
async fn with_more(pool: PgPool, name: String, count: usize) {
    let _ = (pool, name, count);
}

#[gen_durable::test]
async fn borrowed(pool: &PgPool) {
    let _ = pool;
}

#[gen_durable::test]
async fn generic<T>(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test]
async unsafe fn not_safe(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test]
#[test]
async fn twice(pool: PgPool) {
    let _ = pool;
}

#[gen_durable::test]
struct NoFunction;

fn main() {}
