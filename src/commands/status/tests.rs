//! Tests of a status: one screen, its tables, and its JSON.

use std::time::Duration;

use expect_test::expect;

use super::{
    screen::{stages_table, workers_table},
    summary::{StageStatus, WorkerStatus},
    *,
};
use crate::{
    commands::{table::on_terminals, width::columns},
    observe::{
        durations::Durations,
        worker_record::{Recent, StageStats},
    },
};

fn worker(id: &str, took: Duration, failed: u64) -> WorkerRecord {
    let durations = Durations::default();
    (0..60).for_each(|_| durations.observe(took));
    let recent = Recent { span_ms: 30_000, handled: 60, failed, took: durations.snapshot() };
    let stats = StageStats { handled: 900, failed, dead_lettered: 1, active: 3, recent };
    WorkerRecord {
        started_at: "2026-01-01T00:00:00Z".into(),
        seen_at: "2026-01-01T02:30:00Z".into(),
        pid: 41,
        leads: vec!["errors".into()],
        stages: [("validate".to_owned(), stats)].into(),
        ..WorkerRecord::new(id, "node-a\x1b[2J", "0123456789ab")
    }
}

fn status() -> Status {
    let feed = |stream: &str, problem: Option<&str>| FeedStatus {
        stream: stream.into(),
        problem: problem.map(str::to_owned),
        pending: 12,
        ack_pending: 8,
        redelivered: 2,
        orphans: Some(u64::from(problem.is_none() && stream == "shop-retry") * 3),
        swept: stream != "shop-in-events",
    };
    let gone = Some("consumer \"shop-orders\" on stream \"shop-out-validate\" is gone");
    let stages = vec![
        ("validate".to_owned(), vec![feed("shop-in-events", None), feed("shop-retry", None)]),
        ("orders".to_owned(), vec![feed("shop-out-validate", gone)]),
    ];
    let workers =
        [worker("w-1", Duration::from_micros(800), 0), worker("w-2", Duration::from_millis(40), 6)];
    let mut status = Status::new("shop", stages, &workers);
    let (since, now) = (Some("2026-01-01T02:27:36.5Z"), "2026-01-01T02:30:00Z".parse().unwrap());
    let reason = "ConnectionError: refused\x1b[2J";
    status.stages[1].breaker =
        Some(BreakerStatus::new(reason, since, Some("2026-01-01T02:30:08Z"), 7, now));
    Status { dead_letters: Some(12), retry_queue: Some(4), ..status }
}

#[test]
fn a_status_is_one_screen() {
    expect![[r#"
        shop: 2 workers, 12 dead letters, 4 waiting for retry, ? failed attempts kept

        STAGE     RATE/S  ERRORS    P50   P95   P99  ACTIVE  PENDING  UNACKED  AGAIN
        validate     4.0    5.0%  800µs  40ms  40ms       6       24       16      4
        orders       0.0       -      -     -     -       0       12        8      2
        ! orders: circuit breaker open for 2m24s, next probe in 8s: ConnectionError: refused [2J
        ! validate: 3 events of shop-retry that nobody will be given again; the sweep turns them into dead letters
        ! orders: consumer "shop-orders" on stream "shop-out-validate" is gone

        WORKER  HOST        PID  UP  RATE/S  CONFIG        LEADS
        w-1     node-a [2J   41  2h     2.0  0123456789ab  errors
        w-2     node-a [2J   41  2h     2.0  0123456789ab  errors
    "#]]
    .assert_eq(&status().render(120));
}

#[test]
fn no_line_is_wider_than_the_screen() {
    let mut status = status();
    status.stages[0].feeds[0].problem = Some("流不存在，无法读取消息的消费者".repeat(3));
    assert!(status.render(40).lines().all(|line| columns(line) <= 40));
}

#[test]
fn the_json_has_the_same_numbers() {
    let json = serde_json::to_value(status()).unwrap();
    assert_eq!(json["stages"][0]["p99_ms"], 40.0);
    assert_eq!(json["stages"][0]["error_rate"], 0.05);
    assert_eq!(json["stages"][1]["feeds"][0]["pending"], 12);
    assert_eq!(json["stages"][0]["breaker"], serde_json::Value::Null);
    assert_eq!(json["stages"][1]["breaker"]["open_s"], 144);
    assert_eq!(json["stages"][1]["breaker"]["probe_in_s"], 8);
    let late = BreakerStatus::new(
        "",
        None,
        Some("2026-01-01T02:30:00Z"),
        1,
        "2026-01-01T02:31:00Z".parse().unwrap(),
    );
    assert_eq!(late.probe_in_s, 0);
}

#[test]
fn stages_in_any_script_line_up_on_every_terminal() {
    let stage = |stage: &str, per_second, ms, active| StageStatus {
        stage: stage.into(),
        per_second,
        error_rate: Some(0.05),
        p50_ms: Some(ms),
        p95_ms: Some(ms * 12.5),
        p99_ms: Some(ms * 250.0),
        active,
        ..status().stages.swap_remove(0)
    };
    let stages = [
        stage("orders", 1234.5, 0.8, 128),
        stage("支付", 4.0, 40.0, 6),
        stage("הזמנות", 0.0, 3.5, 0),
        stage("an-enrichment-of-orders-with-customers", 98.7, 1.2, 16),
    ];
    expect![[r#"
        80 columns
        STAGE                     RATE/S  ERRORS    P95    P99  ACTIVE  PENDING  UNACKED
        orders                    1234.5    5.0%   10ms  200ms     128       24       16
        支付                         4.0    5.0%  500ms  10.0s       6       24       16
        הזמנות                       0.0    5.0%   44ms  875ms       0       24       16
        an-enrichment-of-orders…    98.7    5.0%   15ms  300ms      16       24       16
        120 columns
        STAGE                                   RATE/S  ERRORS    P50    P95    P99  ACTIVE  PENDING  UNACKED  AGAIN
        orders                                  1234.5    5.0%  800µs   10ms  200ms     128       24       16      4
        支付                                       4.0    5.0%   40ms  500ms  10.0s       6       24       16      4
        הזמנות                                     0.0    5.0%  3.5ms   44ms  875ms       0       24       16      4
        an-enrichment-of-orders-with-customers    98.7    5.0%  1.2ms   15ms  300ms      16       24       16      4
        200 columns
        STAGE                                   RATE/S  ERRORS    P50    P95    P99  ACTIVE  PENDING  UNACKED  AGAIN
        orders                                  1234.5    5.0%  800µs   10ms  200ms     128       24       16      4
        支付                                       4.0    5.0%   40ms  500ms  10.0s       6       24       16      4
        הזמנות                                     0.0    5.0%  3.5ms   44ms  875ms       0       24       16      4
        an-enrichment-of-orders-with-customers    98.7    5.0%  1.2ms   15ms  300ms      16       24       16      4
    "#]].assert_eq(&on_terminals(|width| stages_table(&stages, width)));
    // A stage with a short name leaves room for more numbers.
    expect![[r#"
        STAGE   RATE/S  ERRORS    P50   P95    P99  ACTIVE  PENDING  UNACKED  AGAIN
        orders  1234.5    5.0%  800µs  10ms  200ms     128       24       16      4"#]]
    .assert_eq(&stages_table(&stages[..1], Some(80)).lines(Some(80)).join("\n"));
}

#[test]
fn workers_in_any_script_line_up_on_every_terminal() {
    let worker = |id: &str, host: &str, pid, leads: &[&str]| WorkerStatus {
        id: id.into(),
        host: host.into(),
        pid,
        leads: leads.iter().map(|stage| (*stage).to_owned()).collect(),
        ..status().workers.swap_remove(0)
    };
    let workers = [
        worker("w-1", "node-a", 41, &["errors", "alerts"]),
        worker(
            "shop-7c9f6d5b8-x2x9q.payments.example.com-0199a3f2",
            "a-host-with-a-long-name.ops.example.com",
            4_194_304,
            &[],
        ),
        worker("w-支付", "节点甲", 7, &["错误", "告警"]),
        worker("w-הזמנות", "שרת", 123, &["שגיאות"]),
    ];
    expect![[r#"
        80 columns
        WORKER                                 HOST          PID  UP  RATE/S  CONFIG   …
        w-1                                    node-a         41  2h     2.0  0123456… …
        shop-7c9f6d5b8-x2x9q.payments.exampl…  a-host-…  4194304  2h     2.0  0123456…
        w-支付                                 节点甲          7  2h     2.0  0123456… …
        w-הזמנות                               שרת           123  2h     2.0  0123456… …
        120 columns
        WORKER                                              HOST                    PID  UP  RATE/S  CONFIG        LEADS
        w-1                                                 node-a                   41  2h     2.0  0123456789ab  errors,alerts
        shop-7c9f6d5b8-x2x9q.payments.example.com-0199a3f2  a-host-with-a-lon…  4194304  2h     2.0  0123456789ab
        w-支付                                              节点甲                    7  2h     2.0  0123456789ab  错误,告警
        w-הזמנות                                            שרת                     123  2h     2.0  0123456789ab  שגיאות
        200 columns
        WORKER                                              HOST                                         PID  UP  RATE/S  CONFIG        LEADS
        w-1                                                 node-a                                        41  2h     2.0  0123456789ab  errors,alerts
        shop-7c9f6d5b8-x2x9q.payments.example.com-0199a3f2  a-host-with-a-long-name.ops.example.com  4194304  2h     2.0  0123456789ab
        w-支付                                              节点甲                                         7  2h     2.0  0123456789ab  错误,告警
        w-הזמנות                                            שרת                                          123  2h     2.0  0123456789ab  שגיאות
    "#]].assert_eq(&on_terminals(|_| workers_table(&workers)));
}
