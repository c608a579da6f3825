//! `queues`, `machines`, `workers`, `graph`, `tree`, `audit`, `doctor`, `schedules`.

use gen_durable::{Client, Ended, Schedule, Status, prelude::*};
use serde_json::Value;

use crate::support::{
    Cart, Import, Order, database, empty_database, engine, eventually, run, steady, until,
};

/// Spawns two children, and waits for them.
#[durable_fsm(output = (), signals(Ended<Import>))]
pub enum Parent {
    Split,
    Join,
}

#[durable_fsm]
impl Parent {
    async fn split(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Parent::Join).spawn([Import::insert(1), Import::insert(0)])
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.gather::<Ended<Import>>(2)?.is_none() {
            return Ok(cx.await_count::<Ended<Import>>(2));
        }
        Ok(cx.done(()))
    }
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_fleet_is_shown() {
    let db = database().await;
    for (command, titles) in [
        (
            "queues",
            "QUEUE | WORKERS | SLOTS | DUE | RUNNING | SCHEDULED | AWAITING | HELD | FAILED",
        ),
        ("machines", "MACHINE | WORKERS | QUEUE | STEPS | HISTORY | REGISTERED"),
        ("workers", "ID | NAME | HOST | PID | STATUS | STARTED | LEASE | RUNNING | QUEUES"),
        ("audit", "ENTRY | WHEN | BY | ACTION | SUBJECT"),
    ] {
        assert_eq!(steady(&run(&db, &[command]).await.done()), format!("{titles}\n"));
        assert_eq!(run(&db, &[command, "--json"]).await.done(), "");
    }
    for arguments in [&["graph", "order"][..], &["machines", "steps", "order"]] {
        let said = run(&db, arguments).await.failed(3);
        assert_eq!(said, "error: no engine has registered a machine `order`; there are: none\n");
    }
    let said = run(&db, &["tree", "1"]).await.failed(3);
    assert!(said.contains("instance 1 does not exist"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_machines_and_workers_are_shown_and_paused() {
    let db = database().await;
    let engine = engine(&db).name("one").start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let parked = Order::insert(Cart::of("tea")).execute(&client).await.unwrap();
    until(&client, parked, Status::AwaitingSignal).await;
    let failed = Import::insert(0).execute(&client).await.unwrap();
    until(&client, failed, Status::Failed).await;
    let by = ["--by", "ada", "--reason", "no paper"];
    let acts = [
        (&["queues", "pause", "mail", "--until", "2h"][..], "queue mail: paused\n"),
        (&["machines", "pause", "order", "--step", "ship"], "order@ship: paused\n"),
        (&["machines", "pause", "import"], "machine import: paused\n"),
    ];
    for (arguments, said) in acts {
        assert_eq!(run(&db, &[arguments, &by].concat()).await.done(), said);
    }
    let said = run(&db, &["queues"]).await.done();
    assert_eq!(
        steady(&said),
        "\
QUEUE | WORKERS | SLOTS | DUE | RUNNING | SCHEDULED | AWAITING | HELD | FAILED | PAUSED
default | 1 | 10 | 0 | 0 | 0 | 1 | 0 | 1
mail | 1 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | queue mail by ada now, ends in 1h: no paper
"
        .replace("now", if said.contains("by ada now") { "now" } else { "1s ago" }),
        "{said}"
    );
    let said = json(&run(&db, &["queues", "--json"]).await.done());
    assert_eq!((&said[1]["name"], &said[1]["paused"]["by"]), (&"mail".into(), &"ada".into()));
    assert_eq!(said[0]["depths"][0]["count"], 1);
    let said = run(&db, &["machines"]).await.done();
    assert_eq!(
        steady(&said),
        "\
MACHINE | WORKERS | QUEUE | STEPS | SIGNALS | HISTORY | REGISTERED | PAUSED
import | 1 | default | read | off | … | all
order | 1 | default | reserve await_pay ship | paid | states | … | ship
"
    );
    let said = json(&run(&db, &["machines", "--json"]).await.done());
    assert_eq!(said[1]["paused"], serde_json::json!(["ship"]));
    let said = run(&db, &["machines", "steps", "order"]).await.done();
    assert_eq!(
        steady(&said),
        "VERSION | STEP | WAITS | COUNT | OLDEST\n1 | await_pay | awaiting | 1 | …\n"
    );
    let said = run(&db, &["workers"]).await.done();
    let said = steady(&said);
    let line: Vec<&str> = said.lines().nth(1).unwrap().split(" | ").collect();
    assert_eq!((line[1], line[4], line[8]), ("one", "alive", "default:10 mail:2"), "{said}");
    let said = json(&run(&db, &["workers", "--json"]).await.done());
    assert_eq!(said[0]["queues"][1], serde_json::json!({ "name": "mail", "slots": 2 }));

    for (arguments, said) in [
        (&["queues", "resume", "mail"][..], "queue mail: resumed\n"),
        (&["queues", "resume", "mail"], "queue mail: was not paused\n"),
        (&["machines", "resume", "order", "--step", "ship"], "order@ship: resumed\n"),
        (&["machines", "resume", "import"], "machine import: resumed\n"),
    ] {
        assert_eq!(run(&db, &[arguments, &by].concat()).await.done(), said);
    }
    for (arguments, part) in [
        (&["queues", "pause", "post"][..], "no engine has served a queue `post`"),
        (&["machines", "pause", "basket"], "no engine has registered a machine `basket`"),
        (&["machines", "pause", "order", "--step", "pay"], "has no step `pay`"),
    ] {
        let said = run(&db, arguments).await.failed(3);
        assert!(said.contains(part), "{said}");
    }
    let said = run(&db, &["audit", "--by", "ada", "--limit", "3"]).await;
    assert_eq!(
        steady(&said.out),
        "\
ENTRY | WHEN | BY | ACTION | SUBJECT | REASON
6 | … | ada | resume | machine import | no paper
5 | … | ada | resume | order@ship | no paper
4 | … | ada | resume | queue mail | no paper
"
    );
    assert_eq!(said.err, "there may be more: go on with --after 4\n");
    let said = run(&db, &["audit", "--action", "pause", "--after", "2", "--json"]).await.done();
    let said = json(&said);
    assert_eq!((said.len(), &said[0]["queue"]), (1, &Value::from("mail")));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_drawn() {
    let db = database().await;
    engine(&db).start().await.unwrap().shutdown().await.unwrap();
    let said = run(&db, &["graph", "order"]).await.done();
    assert!(said.contains("reserve --> await_pay"), "{said}");
    let said = run(&db, &["graph", "order", "--form", "dot"]).await.done();
    assert!(said.starts_with("digraph") && said.contains("reserve"), "{said}");
    let said = json(&run(&db, &["graph", "order", "--json"]).await.done());
    assert_eq!((&said[0]["machine"], &said[0]["version"]), (&"order".into(), &1.into()));
    assert!(said[0]["graph"].is_object(), "{said:?}");
    let said = run(&db, &["graph", "order", "--machine-version", "7"]).await.failed(3);
    assert!(said.contains("see `gen-durable machines`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_shown() {
    let db = database().await;
    let engine = engine(&db).machine::<Parent>().start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let parent = Parent::insert(()).execute(&client).await.unwrap();
    until(&client, parent, Status::Done).await;
    let said = run(&db, &["tree", "1"]).await.done();
    assert_eq!(
        steady(&said),
        "\
INSTANCE | MACHINE | STEP | STATUS | ERROR
1 ◀ | parent | join | done
└ 2 | import | read | done
└ 3 | import | read | failed | nothing to import
"
    );
    let said = run(&db, &["tree", "3", "-o", "ids"]).await.done();
    assert_eq!(said, "1\n3\n");
    let said = json(&run(&db, &["tree", "3", "--json"]).await.done());
    assert_eq!((&said[0]["generation"], &said[1]["reports_to"]), (&(-1).into(), &1.into()));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_shown_paused_and_run() {
    let db = database().await;
    let engine = engine(&db)
        .schedule("nightly", Schedule::cron("0 3 * * *"), |_| Import::insert(1))
        .start()
        .await
        .unwrap();
    let shown = async || {
        let said = steady(&run(&db, &["schedules"]).await.done());
        (said.lines().count() == 2).then_some(said)
    };
    let said = eventually("the schedule is declared", shown).await;
    let line: Vec<&str> = said.lines().nth(1).unwrap().split(" | ").collect();
    assert_eq!((line[0], line[1], line[2]), ("nightly", "import", "…"), "{said}");
    let act = async |arguments: &[&str]| run(&db, &[&["schedules"], arguments].concat()).await;
    let said = act(&["pause", "nightly", "--until", "1d", "--by", "ada"]).await.done();
    assert_eq!(said, "schedule nightly: paused\n");
    let said = act(&[]).await.done();
    assert!(said.contains("by ada, ends in 23h"), "{said}");
    let said = json(&act(&["--json"]).await.done());
    assert_eq!((&said[0]["name"], &said[0]["paused"]["by"]), (&"nightly".into(), &"ada".into()));
    assert_eq!(act(&["resume", "nightly"]).await.done(), "schedule nightly: resumed\n");
    assert_eq!(act(&["resume", "nightly"]).await.done(), "schedule nightly: was not paused\n");
    assert_eq!(act(&["run-now", "nightly"]).await.done(), "schedule nightly: fires now\n");
    let client = Client::new(db.pool().clone());
    eventually("the schedule has fired", async || client.find(1).await.unwrap()).await;
    until(&client, 1, Status::Done).await;
    for arguments in [&["pause", "daily"][..], &["resume", "daily"], &["run-now", "daily"]] {
        let said = act(arguments).await.failed(3);
        assert!(said.contains("no engine has declared the schedule `daily`"), "{said}");
    }
    engine.shutdown().await.unwrap();
    let said = act(&["run-now", "nightly"]).await.done();
    assert!(said.contains("fires when an engine that declares it starts"), "{said}");
    let said = act(&[]).await.done();
    assert!(said.contains("no program declares it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_is_ill() {
    let db = database().await;
    let said = run(&db, &["doctor", "--json"]).await;
    let found = json(&said.out);
    let ill = found.iter().any(|finding| finding["severity"] != "info");
    assert_eq!(said.code, Some(i32::from(ill)), "{said:?}");

    let engine = engine(&db).start().await.unwrap();
    for queue in ["post", "post", "mail"] {
        run(&db, &["insert", "import", "1", "--queue", queue, "--delay", "1ms"]).await.done();
    }
    let client = Client::new(db.pool().clone());
    until(&client, 3, Status::Done).await;
    let said = run(&db, &["doctor"]).await;
    assert_eq!((said.code, &*said.err), (Some(1), ""), "{said:?}");
    let (_, finding) = said.out.split_once("queue post: ").expect("a finding");
    let finding: Vec<&str> = finding.lines().take(3).collect();
    assert!(finding[0].contains("no living engine serves it"), "{said:?}");
    assert_eq!(finding[1], "  instances: 2, such as 1 2", "{said:?}");
    assert!(finding[2].starts_with("  cure: "), "{said:?}");
    let found = json(&run(&db, &["doctor", "--json"]).await.out);
    let finding = found.iter().find(|finding| finding["subject"] == "queue post").unwrap();
    assert_eq!((&finding["illness"], &finding["count"]), (&"unserved_queue".into(), &2.into()));
    let said = run(&db, &["doctor", "-o", "ids"]).await;
    assert!(said.out.contains("1\n2\n"), "{said:?}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_that_a_schema_is_missing() {
    let db = empty_database().await;
    let said = run(&db, &["doctor"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("no schema of gen_durable"), "{said:?}");
    assert!(said.out.contains("  cure: gen-durable migrate up\n"), "{said:?}");
}
