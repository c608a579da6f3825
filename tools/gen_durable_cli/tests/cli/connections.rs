//! Connections: what the program reads, and what it says if it gets none.

use std::{
    fs::Permissions, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Stdio,
    time::Duration,
};

use gen_durable_postgres::Server;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Said, database, empty_database, eventually, program};

async fn ls(variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = program(None);
    command.arg("ls").args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    Said::of(command.output().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_named_by_an_argument_or_by_variables() {
    let db = database().await;
    let options = db.pool().connect_options();
    let host = options
        .get_socket()
        .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
    let (port, user) = (options.get_port().to_string(), options.get_username().to_owned());
    let libpq =
        [("PGHOST", &*host), ("PGPORT", &port), ("PGUSER", &user), ("PGDATABASE", db.name())];
    ls(&libpq, &[]).await.done();
    // The argument wins over the variable, and the URL over the others.
    if options.get_socket().is_some() {
        ls(&[("DATABASE_URL", "postgres://nobody@nowhere/none")], &["--database-url", db.url()])
            .await
            .done();
    }
    ls(&[("DATABASE_URL", db.url()), ("PGDATABASE", "none")], &[]).await.done();

    let folder = std::env::temp_dir().join(format!("gen_durable_cli_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("services");
    let mut services = std::fs::File::create(&file).unwrap();
    writeln!(
        services,
        "[other]\nhost=nowhere\n[ours]\nhost={host}\nport={port}\nuser={user}\ndbname={}",
        db.name()
    )
    .unwrap();
    let file = file.display().to_string();
    ls(&[("PGSERVICE", "ours"), ("PGSERVICEFILE", &file)], &[]).await.done();
    let said = ls(&[("PGSERVICE", "theirs"), ("PGSERVICEFILE", &file)], &[]).await.failed(2);
    assert!(said.contains("no service of that name is in"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_password_is_no_argument() {
    for url in ["postgres://ada:secret@localhost/x", "postgres://localhost/x?password=secret"] {
        let said = ls(&[], &["--database-url", url]).await.failed(2);
        assert!(said.contains("set DATABASE_URL or PGPASSWORD instead"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn wrong_variables_are_errors() {
    for (variable, value, part) in [
        ("PGSSLMODE", "verfy-full", "PGSSLMODE is `verfy-full`; it can be disable"),
        ("PGPORT", "http", "PGPORT is `http`"),
        ("PGCONNECT_TIMEOUT", "soon", "it must be a number of seconds"),
        ("DATABASE_URL", "mysql://ada:secret@localhost/x", "DATABASE_URL is no URL of Postgres"),
    ] {
        let said = ls(&[(variable, value)], &[]).await.failed(2);
        assert!(said.contains(part) && !said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() {
    let said = ls(&[("PGHOST", "127.0.0.1"), ("PGPORT", "1")], &[]).await.failed(6);
    assert!(said.starts_with("error: cannot reach the server at 127.0.0.1:1: "), "{said}");
    assert!(said.contains("check PGHOST and PGPORT"), "{said}");
    // This listener never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let variables = [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGCONNECT_TIMEOUT", "1")];
    let asked = tokio::time::timeout(Duration::from_secs(30), ls(&variables, &[]));
    let said = asked.await.expect("an answer").failed(6);
    assert!(said.contains("did not answer within 1s"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_or_not_migrated_is_told() {
    let db = empty_database().await;
    let said = ls(&[("DATABASE_URL", db.url())], &[]).await.failed(1);
    assert!(said.contains("run `gen-durable migrate up`"), "{said}");
    let url = db.url().replace(db.name(), "no_such_database");
    let said = ls(&[("DATABASE_URL", &url)], &[]).await.failed(6);
    assert!(said.contains("does not exist; name another database"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_or_has_too_few_rights_is_told() {
    let server = Server::builder().fast(true).start().expect("a Postgres server");
    let admin = PgPool::connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&admin).await.unwrap();
    gen_durable_migrate::roles(&admin).await.unwrap();
    let sql = async |statement: &str| {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&admin).await.unwrap();
    };
    sql("create role bare login password 'right'").await;
    sql("create role viewer login password 'right' in role gen_durable_operator").await;
    let path: String = sqlx::query_scalar("show hba_file").fetch_one(&admin).await.unwrap();
    let rules = std::fs::read_to_string(&path).unwrap();
    let strict = "local all bare scram-sha-256\nlocal all viewer scram-sha-256\n";
    std::fs::write(&path, format!("{strict}{rules}")).unwrap();
    sql("select pg_reload_conf()").await;
    let host = server.socket_dir().display().to_string();
    let login = |user: &'static str, password: &'static str| {
        let host = host.clone();
        async move {
            let variables = [
                ("PGHOST", &*host),
                ("PGUSER", user),
                ("PGPASSWORD", password),
                ("PGDATABASE", "postgres"),
            ];
            ls(&variables, &[]).await
        }
    };
    // The server reads its rules a moment after it was told to.
    let refused = async || {
        let said = login("bare", "wrong").await;
        (said.code == Some(6)).then(|| said.failed(6))
    };
    let said = eventually("a password is needed", refused).await;
    assert!(said.contains("password authentication failed"), "{said}");
    assert!(said.contains("set PGUSER and PGPASSWORD, or write a line into ~/.pgpass"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
    let said = login("bare", "right").await.failed(4);
    assert!(said.contains("permission denied"), "{said}");
    assert!(said.contains("run `gen-durable migrate roles`"), "{said}");
    login("viewer", "right").await.done();
    let mut command = program(Some(&server.url("postgres").replace("postgres@", "viewer@")));
    command.args(["retry", "1"]).env("PGPASSWORD", "right");
    let said = Said::of(command.output().await.unwrap()).failed(4);
    assert!(said.contains("permission denied"), "{said}");
    admin.close().await;
}

/// Starts a server that has a certificate of the tests' authority, and returns its port.
async fn encrypted() -> (Server, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = port.to_string();
    let server = Server::builder().fast(true).setting("listen_addresses", "localhost");
    let server = server.setting("port", &port).start().expect("a Postgres server");
    let url = server.url("postgres") + "?port=" + &port;
    let admin = PgPool::connect(&url).await.unwrap();
    gen_durable_migrate::up(&admin).await.unwrap();
    let folder: String = sqlx::query_scalar("show data_directory").fetch_one(&admin).await.unwrap();
    // The server writes them itself, as it reads no key of another user, or that others may read.
    for (name, text) in [
        ("server.crt", include_str!("certificates/server.crt")),
        ("server.key", include_str!("certificates/server.key")),
    ] {
        let write =
            format!("copy (select unnest(string_to_array('{text}', E'\\n'))) to '{folder}/{name}'");
        sqlx::raw_sql(AssertSqlSafe(write)).execute(&admin).await.unwrap();
        let path = Path::new(&folder).join(name);
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    sqlx::raw_sql("alter system set ssl = on").execute(&admin).await.unwrap();
    sqlx::raw_sql("select pg_reload_conf()").execute(&admin).await.unwrap();
    admin.close().await;
    (server, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_encrypted_and_the_server_is_checked() {
    let (_server, port) = encrypted().await;
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/certificates/ca.crt");
    let connect = async |more: &[(&str, &str)]| {
        let base = [
            ("PGHOST", "localhost"),
            ("PGPORT", &*port),
            ("PGUSER", "postgres"),
            ("PGDATABASE", "postgres"),
        ];
        ls(&[&base[..], more].concat(), &[]).await
    };
    // The server reads its settings a moment after it was told to.
    let require = async || {
        let said = connect(&[("PGSSLMODE", "require")]).await;
        (said.code == Some(0)).then_some(())
    };
    eventually("connections are encrypted", require).await;
    let full = ("PGSSLMODE", "verify-full");
    connect(&[full, ("PGSSLROOTCERT", authority)]).await.done();
    // The system's roots have not signed this certificate.
    let said = connect(&[full]).await.failed(6);
    assert!(said.contains("cannot encrypt the connection to the server at localhost"), "{said}");
    assert!(said.contains("check PGSSLMODE and PGSSLROOTCERT"), "{said}");
}
