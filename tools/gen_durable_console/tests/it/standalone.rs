//! A console that is served by itself: loopback, host names, and the link.

use gen_durable_console::{Options, ServeError, Server};
use sqlx::PgPool;
use tokio::sync::oneshot;

use crate::support::{
    Error,
    http::{Answer, ask},
};

struct Running {
    address: std::net::SocketAddr,
    link: Option<String>,
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

async fn run(pool: &PgPool, options: Options) -> Result<Running, Error> {
    let server = Server::bind(pool.clone(), options.address(([127, 0, 0, 1], 0).into())).await?;
    let url = server.url();
    let address = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
    let link = server.link();
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = ended.await;
    }));
    Ok(Running { address, link, end, task })
}

impl Running {
    async fn get(&self, path: &str, host: &str, cookie: &str) -> Result<Answer, Error> {
        let headers = [("Host", host), ("Cookie", cookie)];
        ask(self.address, "GET", path, &headers, "").await
    }

    async fn end(self) -> Result<(), Error> {
        let _ = self.end.send(());
        Ok(self.task.await??)
    }
}

#[gen_durable::test]
async fn it_listens_on_loopback_alone(pool: PgPool) -> Result<(), Error> {
    let refused = Server::bind(pool, Options::new().address(([0, 0, 0, 0], 0).into())).await;
    assert!(matches!(refused, Err(ServeError::NotLoopback { .. })), "{refused:?}");
    Ok(())
}

#[gen_durable::test]
async fn it_answers_to_the_names_of_its_machine_alone(pool: PgPool) -> Result<(), Error> {
    let server = run(&pool, Options::new()).await?;
    for host in ["localhost", "LOCALHOST:7", "127.0.0.1", "127.0.0.1:80", "[::1]:80"] {
        assert_eq!(server.get("/", host, "").await?.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "localhost:x"] {
        let answer = server.get("/", host, "").await?;
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("Overview"), "{host}");
    }
    server.end().await
}

#[gen_durable::test]
async fn without_write_nobody_may_act(pool: PgPool) -> Result<(), Error> {
    let server = run(&pool, Options::new()).await?;
    assert_eq!(server.link, None);
    let page = server.get("/", "localhost", "").await?;
    assert!(page.body.contains("Read only") && page.body.contains("States are hidden"));
    assert_eq!(server.get("/session?token=", "localhost", "").await?.status, 404);
    let act = server.get("/act?deed=pause&on=queue&name=x", "localhost", "").await?;
    assert_eq!(act.status, 403);
    server.end().await
}

#[gen_durable::test]
async fn the_link_lets_one_browser_act(pool: PgPool) -> Result<(), Error> {
    let server = run(&pool, Options::new().write("ada").with_states()).await?;
    let link = server.link.clone().ok_or("a link")?;
    let path = link.split_once(&server.address.to_string()).ok_or("its address")?.1.to_owned();
    let act = "/act?deed=pause&on=queue&name=x";
    assert_eq!(server.get(act, "localhost", "").await?.status, 403);
    let wrong = format!("{}0", &path[..path.len() - 1]);
    let wrong = if wrong == path { format!("{path}1") } else { wrong };
    assert_eq!(server.get(&wrong, "localhost", "").await?.status, 403);

    let welcome = server.get(&path, "localhost", "").await?;
    assert_eq!(welcome.status, 200);
    let cookie = welcome.cookies();
    assert_eq!(server.get(&path, "localhost", "").await?.status, 403, "the link is used up");
    let page = server.get("/", "localhost", &cookie).await?;
    assert!(page.body.contains("Acting as"), "{}", page.body);
    assert!(!page.body.contains("States are hidden"));
    assert_eq!(server.get(act, "localhost", &cookie).await?.status, 200);
    let other = server.get("/", "localhost", "").await?;
    assert!(other.body.contains("Read only") && other.body.contains("States are hidden"));
    server.end().await
}
