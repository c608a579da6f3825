//! A wrong expression, a wrong zone, an expression that never fires, and options without a schedule.

use gen_durable::prelude::*;

#[durable_job(cron = "0 25 * * *", zone = "Europe/Berlin")]
async fn no_such_hour(_cx: JobContext) {}

#[durable_job(cron = "0 0 30 2 *")]
async fn never(_cx: JobContext) {}

#[durable_job(cron = "0 3 * * *", zone = "Europe/Bern")]
async fn no_such_zone(_cx: JobContext) {}

#[durable_job(every = "500ms")]
async fn too_often(_cx: JobContext) {}

#[durable_job(cron = "@daily", every = "15m")]
async fn two(_cx: JobContext) {}

#[durable_job(overlap = "queue")]
async fn none(_cx: JobContext) {}

#[durable_job(cron = "@daily", missed = "all", overlap = "never")]
async fn policies(_cx: JobContext) {}

fn main() {}
