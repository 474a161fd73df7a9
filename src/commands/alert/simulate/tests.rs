//! Tests of a simulation's tables, on terminals of several widths.

use millstream_stages::{
    incident::{Change, Severity},
    notification::Hold,
};

use super::*;
use crate::{
    channels::sample::{self, SampleKind},
    commands::table::on_terminals,
};

#[test]
fn notifications_in_any_script_line_up_on_every_terminal() {
    let at = "2026-11-21T08:00:00Z".parse().unwrap();
    let sent = |channel: &str, about, title: &str| {
        let incident = sample::incident("BALANCE", Severity::High, "shop", at);
        Notification { title: title.into(), ..sample::notification(channel, about, incident) }
    };
    let sent = [
        sent(
            "oncall",
            SampleKind::Firing,
            "[critical] PAYMENT_GATEWAY_UNAVAILABLE opened: 12500 errors in shop/orders, \
             such as 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff",
        ),
        sent(
            "企业微信",
            SampleKind::Digest,
            "[high] 余额不足：支付服务在过去十五分钟内有 500 个错误",
        ),
        sent("mail", SampleKind::Resolved, "[low] BALANCE נפתר: אין יתרה מספקת בחשבון"),
    ];
    expect_test::expect![[r#"
        80 columns
        AT              CHANNEL   WHY       TITLE
        11-21 08:00:00  oncall    opened    [critical] PAYMENT_GATEWAY_UNAVAILABLE open…
        11-21 08:00:00  企业微信  digest    [high] 余额不足：支付服务在过去十五分钟内有…
        11-21 08:00:00  mail      resolved  [low] BALANCE נפתר: אין יתרה מספקת בחשבון
        120 columns
        AT              CHANNEL   WHY       TITLE
        11-21 08:00:00  oncall    opened    [critical] PAYMENT_GATEWAY_UNAVAILABLE opened: 12500 errors in shop/orders, such as…
        11-21 08:00:00  企业微信  digest    [high] 余额不足：支付服务在过去十五分钟内有 500 个错误
        11-21 08:00:00  mail      resolved  [low] BALANCE נפתר: אין יתרה מספקת בחשבון
        200 columns
        AT              CHANNEL   WHY       TITLE
        11-21 08:00:00  oncall    opened    [critical] PAYMENT_GATEWAY_UNAVAILABLE opened: 12500 errors in shop/orders, such as 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff
        11-21 08:00:00  企业微信  digest    [high] 余额不足：支付服务在过去十五分钟内有 500 个错误
        11-21 08:00:00  mail      resolved  [low] BALANCE נפתר: אין יתרה מספקת בחשבון
    "#]].assert_eq(&on_terminals(|_| sent_table(&sent, true)));
}

#[test]
fn changes_held_back_in_any_script_line_up_on_every_terminal() {
    let held = |channel: &str, event, code: &str, hold, why: &str| Explained {
        at_ms: 1_795_248_000_000,
        channel: channel.into(),
        incident_id: "1fd18fd1a0b1c2d3-1".into(),
        code: code.into(),
        severity: Severity::High,
        event,
        hold,
        why: why.into(),
    };
    let held = [
        held(
            "oncall",
            Change::Acknowledged,
            "PAYMENT_GATEWAY_UNAVAILABLE",
            Hold::Silenced,
            "silence s-20261121-101502-ab12 by ada@ops-1: provider maintenance",
        ),
        held("企业微信", Change::Opened, "余额不足", Hold::Inhibited, "更严重的事件已经解释了它"),
        held("mail", Change::Resolved, "יתרה", Hold::Unwanted, "הערוץ אינו רוצה סיומים"),
    ];
    expect_test::expect![[r#"
        80 columns
        AT              CHANNEL   HELD BA…  INCIDENT  EVENT     CODE      BECAUSE
        11-21 08:00:00  oncall    silenced  1fd18fd1  acknowl…  PAYMENT…  silence s-202…
        11-21 08:00:00  企业微信  inhibit…  1fd18fd1  opened    余额不足  更严重的事件…
        11-21 08:00:00  mail      unwanted  1fd18fd1  resolved  יתרה      הערוץ אינו רו…
        120 columns
        AT              CHANNEL   HELD BACK  INCIDENT  EVENT         CODE                         BECAUSE
        11-21 08:00:00  oncall    silenced   1fd18fd1  acknowledged  PAYMENT_GATEWAY_UNAVAILABLE  silence s-20261121-101502-ab1…
        11-21 08:00:00  企业微信  inhibited  1fd18fd1  opened        余额不足                     更严重的事件已经解释了它
        11-21 08:00:00  mail      unwanted   1fd18fd1  resolved      יתרה                         הערוץ אינו רוצה סיומים
        200 columns
        AT              CHANNEL   HELD BACK  INCIDENT  EVENT         CODE                         BECAUSE
        11-21 08:00:00  oncall    silenced   1fd18fd1  acknowledged  PAYMENT_GATEWAY_UNAVAILABLE  silence s-20261121-101502-ab12 by ada@ops-1: provider maintenance
        11-21 08:00:00  企业微信  inhibited  1fd18fd1  opened        余额不足                     更严重的事件已经解释了它
        11-21 08:00:00  mail      unwanted   1fd18fd1  resolved      יתרה                         הערוץ אינו רוצה סיומים
    "#]].assert_eq(&on_terminals(|_| held_table(&held, true)));
}
