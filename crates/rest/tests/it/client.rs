//! What the client repeats, and what it never repeats.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use san_core::{
    Cx, Deadline, Effect, EffectObserver, EffectState, Effects, Error, ErrorKind, OperationId, Result,
};
use san_rest::{Client, CredentialSource, Credentials, Replay, Request, Wire, WireError};
use tokio::time::Instant;

type Reply = Result<Response<Bytes>, WireError>;

/// Answers from a queue; when it is empty, with 200.
#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<(String, String)>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    fn of(replies: impl IntoIterator<Item = Reply>) -> Arc<Self> {
        Arc::new(Self { replies: Mutex::new(replies.into_iter().collect()), seen: Mutex::default() })
    }

    fn sent(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[async_trait]
impl Wire for Script {
    async fn send(&self, request: http::Request<Bytes>, _: Deadline) -> Reply {
        let login = request.headers()[http::header::AUTHORIZATION].to_str().unwrap().to_owned();
        self.seen.lock().unwrap().push((format!("{} {}", request.method(), request.uri()), login));
        let reply = self.replies.lock().unwrap().pop_front();
        reply.unwrap_or_else(|| status(200))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "an entry of a script")]
fn status(code: u16) -> Reply {
    let mut it = Response::new(Bytes::new());
    *it.status_mut() = StatusCode::from_u16(code).unwrap();
    Ok(it)
}

#[expect(clippy::unnecessary_wraps, reason = "an entry of a script")]
fn after(code: u16, seconds: &'static str) -> Reply {
    let mut it = status(code).unwrap();
    it.headers_mut().insert(http::header::RETRY_AFTER, seconds.parse().unwrap());
    Ok(it)
}

fn credentials() -> Credentials {
    Credentials { username: "admin".into(), password: "canary-secret".into() }
}

fn client(wire: &Arc<Script>) -> Client {
    Client::new(Arc::clone(wire) as Arc<dyn Wire>, Arc::new(credentials()), HeaderMap::new())
}

fn cx(seconds: u64) -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(seconds)), OperationId::random(), Effects::unobserved())
}

fn get() -> Request {
    Request::get("/api/things/{}", &["7"]).query("token", "canary-query")
}

fn post() -> Request {
    Request::post("/api/things", &[]).query("token", "canary-query")
}

fn lost() -> Reply {
    Err(WireError::Lost("connection reset".into()))
}

fn unsent() -> Reply {
    Err(WireError::NotSent("connection refused".into()))
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_and_a_change_is_not() {
    let wire = Script::of([lost(), lost()]);
    assert_eq!(client(&wire).send(&cx(60), &get()).await.unwrap().status, 200);
    assert_eq!(wire.sent(), 3);

    let wire = Script::of([lost()]);
    let error = client(&wire).send(&cx(60), &post()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect(), wire.sent()),
        (ErrorKind::Unavailable, EffectState::Unknown, 1)
    );

    let wire = Script::of([lost()]);
    client(&wire).send(&cx(60), &post().replay(Replay::Safe)).await.unwrap();
    assert_eq!(wire.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_repeated_whatever_it_is() {
    let wire = Script::of([unsent(), unsent()]);
    client(&wire).send(&cx(60), &post()).await.unwrap();
    assert_eq!(wire.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn repetitions_are_counted_and_then_spent() {
    let wire = Script::of((0..9).map(|_| lost()));
    let client = client(&wire);
    let error = client.send(&cx(600), &get()).await.unwrap_err();
    // The third failure opens the circuit breaker, which ends the repetitions of this and of every other request.
    assert_eq!(wire.sent(), 3);
    assert!(!error.is_retryable() && error.is_passing(), "{error:?}");
    let start = Instant::now();
    let error = client.send(&cx(600), &get()).await.unwrap_err();
    assert_eq!((error.kind(), wire.sent(), start.elapsed()), (ErrorKind::Unavailable, 3, Duration::ZERO));
    assert!(client.is_cut_off());
    wire.replies.lock().unwrap().clear();
    tokio::time::advance(Duration::from_secs(6)).await;
    client.send(&cx(600), &get()).await.unwrap();
    assert!(!client.is_cut_off());
}

#[tokio::test(start_paused = true)]
async fn overload_waits_as_long_as_asked_and_no_longer_than_the_deadline() {
    for code in [429, 503] {
        let wire = Script::of([after(code, "7")]);
        let start = Instant::now();
        client(&wire).send(&cx(60), &post()).await.unwrap();
        assert_eq!((wire.sent(), start.elapsed().as_secs()), (2, 7));

        let wire = Script::of([after(code, "90")]);
        let start = Instant::now();
        let error = client(&wire).send(&cx(60), &post()).await.unwrap_err();
        assert_eq!((error.effect(), start.elapsed()), (EffectState::None, Duration::ZERO));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(90)));
    }
    let wire = Script::of([status(503)]);
    let error = client(&wire).send(&cx(60), &post()).await.unwrap_err();
    assert_eq!((error.effect(), wire.sent()), (EffectState::Unknown, 1));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_refused() {
    let wire = Script::of([status(302)]);
    let error = client(&wire).send(&cx(60), &get()).await.unwrap_err();
    assert_eq!((error.kind(), wire.sent()), (ErrorKind::Protocol, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_array_ends_at_the_deadline() {
    #[derive(Debug)]
    struct Hang;
    #[async_trait]
    impl Wire for Hang {
        async fn send(&self, _: http::Request<Bytes>, _: Deadline) -> Reply {
            std::future::pending().await
        }
    }
    let client = Client::new(Arc::new(Hang), Arc::new(credentials()), HeaderMap::new());
    let start = Instant::now();
    let error = client.send(&cx(20), &post()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::Unknown));
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    let error = client.send(&cx(20), &get()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::None));
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_are_tried_once() {
    let wire = Script::of((0..9).map(|_| status(401)));
    let client = client(&wire);
    for _ in 0..5 {
        let error = client.send(&cx(60), &get()).await.unwrap_err();
        assert_eq!((error.kind(), wire.sent()), (ErrorKind::Unauthenticated, 1));
    }
    tokio::time::advance(Duration::from_secs(61)).await;
    client.send(&cx(60), &get()).await.unwrap_err();
    assert_eq!(wire.sent(), 2, "one more try after a minute");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_password_is_picked_up() {
    #[derive(Debug)]
    struct Rotating(Mutex<Vec<Credentials>>);
    #[async_trait]
    impl CredentialSource for Rotating {
        async fn read(&self) -> Result<Credentials> {
            let mut all = self.0.lock().unwrap();
            Ok(if all.len() > 1 { all.remove(0) } else { all[0].clone() })
        }
    }
    let new = Credentials { password: "new".into(), ..credentials() };
    let wire = Script::of([status(401)]);
    let source = Arc::new(Rotating(Mutex::new(vec![credentials(), new])));
    let client = Client::new(Arc::clone(&wire) as Arc<dyn Wire>, source, HeaderMap::new());
    client.send(&cx(60), &post()).await.unwrap();
    let seen = wire.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].1, seen[1].1);
}

#[tokio::test(start_paused = true)]
async fn each_send_of_a_change_is_one_effect() {
    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<String>>);
    #[async_trait]
    impl EffectObserver for Log {
        async fn before(&self, effect: &Effect) -> Result<()> {
            self.0.lock().unwrap().push(effect.to_string());
            Ok(())
        }
        async fn after(&self, _: &Effect) -> Result<()> {
            Ok(())
        }
    }
    let log = Arc::new(Log::default());
    let cx = Cx::new(
        Deadline::after(Duration::from_secs(60)),
        OperationId::random(),
        Effects::observed(Arc::clone(&log) as Arc<dyn EffectObserver>),
    );
    let wire = Script::of([unsent(), after(503, "1")]);
    client(&wire).send(&cx, &post()).await.unwrap();
    client(&wire).send(&cx, &get()).await.unwrap();
    assert_eq!(*log.0.lock().unwrap(), ["POST /api/things"; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_stop_a_change_or_swallow_its_answer() {
    #[derive(Debug)]
    struct Stop(&'static str);
    #[async_trait]
    impl EffectObserver for Stop {
        async fn before(&self, _: &Effect) -> Result<()> {
            if self.0 == "before" { Err(Error::new(ErrorKind::Cancelled, "stopped")) } else { Ok(()) }
        }
        async fn after(&self, _: &Effect) -> Result<()> {
            Err(Error::new(ErrorKind::Timeout, "swallowed"))
        }
    }
    for (when, sent, kind) in [("before", 0, ErrorKind::Cancelled), ("after", 1, ErrorKind::Timeout)] {
        let effects = Effects::observed(Arc::new(Stop(when)));
        let cx = Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), effects);
        let wire = Script::of([]);
        let error = client(&wire).send(&cx, &post()).await.unwrap_err();
        assert_eq!((error.kind(), wire.sent()), (kind, sent));
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_what_is_under_way() {
    #[derive(Debug, Default)]
    struct Slow(Mutex<(usize, usize)>);
    #[async_trait]
    impl Wire for Slow {
        async fn send(&self, _: http::Request<Bytes>, _: Deadline) -> Reply {
            {
                let mut now = self.0.lock().unwrap();
                now.0 += 1;
                now.1 = now.1.max(now.0);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.0.lock().unwrap().0 -= 1;
            status(200)
        }
    }
    let wire = Arc::new(Slow::default());
    let client = Client::new(Arc::clone(&wire) as Arc<dyn Wire>, Arc::new(credentials()), HeaderMap::new());
    let mut tasks = tokio::task::JoinSet::new();
    for request in (0..40).flat_map(|_| [get(), post()]) {
        let client = client.clone();
        tasks.spawn(async move { client.send(&cx(60), &request).await.map(|_| ()) });
    }
    while let Some(it) = tasks.join_next().await {
        it.unwrap().unwrap();
    }
    // Eight reads and eight changes.
    assert_eq!(wire.0.lock().unwrap().1, 16);
    let counted: Vec<_> = client.stats().iter().map(|it| (it.method, it.path, it.sent)).collect();
    assert_eq!(counted, [("POST", "/api/things", 40), ("GET", "/api/things/{}", 40)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_prints_secrets_or_queries() {
    let replies = [lost(), unsent(), status(401), status(302), after(503, "900"), Err(WireError::TimedOut)];
    for reply in replies {
        let wire = Script::of([reply]);
        let client = client(&wire);
        let Err(error) = client.send(&cx(1), &post()).await else { continue };
        let shown = format!("{error:?} {} {:?} {:?} {:?}", error.chain(), error.remedy(), client, post());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
