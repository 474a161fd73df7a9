//! Words: lists by which the scan knows what a word beside a value says about it.

/// Words whose number says what failed: `status 502`, `os error 24`, `errno: 110`, `signal 9`.
pub(super) const TELLING: &[&str] = &[
    "http",
    "status",
    "statuscode",
    "httpstatus",
    "error",
    "errno",
    "errorcode",
    "errcode",
    "sqlstate",
    "sqlcode",
    "exit",
    "signal",
    "hresult",
];
/// Words before `code` that make its number say what failed: `exit code 137`, `status code: 404`.
pub(super) const CODED: &[&str] = &[
    "status", "exit", "error", "response", "result", "return", "http", "close", "reply", "with",
    "vendor", "sql",
];
/// Nouns whose quoted name is the program's own, not data: `constraint "orders_pkey"`, `(reading
/// 'map')`.
const NAMED: &[&str] = &[
    // of schemas
    "constraint",
    "relation",
    "column",
    "table",
    "field",
    "index",
    "key",
    "view",
    "sequence",
    "trigger",
    "schema",
    "database",
    "role",
    "collection",
    // of code
    "property",
    "attribute",
    "parameter",
    "argument",
    "option",
    "module",
    "package",
    "function",
    "method",
    "class",
    "type",
    "variable",
    "import",
    "assembly",
    "bean",
    "object",
    "member",
    "symbol",
    "macro",
    "struct",
    "trait",
    "enum",
    "annotation",
    "crate",
    "library",
    "plugin",
    "extension",
    "template",
    "placeholder",
    "reading",
    "evaluating",
    "because",
    "resolve",
    "activate",
    "execute",
    "operator",
    "codec",
    "encoding",
    "charset",
    "algorithm",
    // of services
    "setting",
    "header",
    "flag",
    "command",
    "subcommand",
    "directive",
    "feature",
    "profile",
    "route",
    "endpoint",
    "host",
    "hostname",
    "path",
    "operation",
    "action",
    "permission",
    "scope",
    "policy",
    "rule",
    "resource",
    "namespace",
    "configmap",
    "secret",
    "container",
    "pod",
    "deployment",
    "service",
    "volume",
    "bucket",
    "queue",
    "topic",
    "exchange",
    "stage",
    "channel",
    "handler",
    "metric",
    // of errors
    "status",
    "state",
    "level",
    "kind",
    "code",
    "error",
    "reason",
];
/// Words between such a noun and its name: `module named 'x'`, `column name 'x'`.
const NAMING: &[&str] = &["name", "named", "called", "of"];
/// Of such nouns, those whose names may look like paths.
const OF_MODULES: &[&str] = &["module", "package", "import", "resolve", "library", "resource"];
/// Such nouns in scripts without spaces: they end the text before the quotes, or begin the text
/// behind them.
const NAMED_UNSPACED: &[&str] = &[
    "字段",
    "参数",
    "模块",
    "属性",
    "键",
    "约束",
    "方法",
    "函数",
    "变量",
    "类型",
    "数据表",
    "数据库",
    "欄位",
    "參數",
    "フィールド",
    "カラム",
    "テーブル",
    "パラメータ",
    "パラメーター",
    "モジュール",
    "キー",
    "属性",
    "変数",
    "関数",
    "メソッド",
    "필드",
    "컬럼",
    "테이블",
    "매개변수",
    "모듈",
    "속성",
    "변수",
    "함수",
];
/// Words behind a quoted name that say it is the program's own: `'utf-8' codec`, `'x' is not
/// defined`.
const NAMED_BEHIND: &[&str] = &[
    "codec",
    "object has",
    "object is",
    "column",
    "table",
    "field",
    "attribute",
    "property",
    "parameter",
    "argument",
    "constraint",
    "module",
    "header",
    "method",
    "function",
    "export",
    "invocation",
    "is not defined",
    "is undefined",
    "is not a function",
    "is null",
    "is required",
    "cannot be null",
    "cannot be empty",
    "must not be",
    "must be",
    "is ambiguous",
    "environment",
    "は必須",
    "不能为空",
    "为必填",
    "은(는) 필수",
];
/// Words whose quoted text is itself a message: `err="dial tcp: i/o timeout"`.
const SAID: &[&str] = &[
    "err",
    "error",
    "msg",
    "message",
    "reason",
    "cause",
    "desc",
    "detail",
    "details",
    "description",
    "assembly",
];
/// Words that a `:` or `=` makes the label of a value: `user=ann`, `Request ID: Gg3vQ+/x`.
const LABELS: &[&str] = &[
    "id",
    "uid",
    "guid",
    "uuid",
    "requestid",
    "traceid",
    "spanid",
    "correlationid",
    "sessionid",
    "messageid",
    "eventid",
    "userid",
    "orderid",
    "clientid",
    "tenantid",
    "token",
    "session",
    "nonce",
    "cursor",
    "etag",
    "bearer",
    "user",
    "username",
    "login",
    "email",
    "phone",
    "ip",
    "addr",
    "pid",
    "tid",
    "string",
];
/// Values that say what is wrong, whatever their label.
const EMPTY: &[&str] = &["null", "none", "nil", "undefined", "nan", "empty", "missing"];
/// Quoted words that are of a language, not of its user.
const LANGUAGE: &[&str] = &[
    "int",
    "integer",
    "str",
    "string",
    "String",
    "NoneType",
    "None",
    "float",
    "double",
    "decimal",
    "bool",
    "boolean",
    "list",
    "dict",
    "tuple",
    "set",
    "bytes",
    "bytearray",
    "object",
    "Object",
    "function",
    "undefined",
    "null",
    "nil",
    "number",
    "bigint",
    "symbol",
    "Some",
    "Ok",
    "Err",
    "void",
    "char",
    "long",
    "short",
    "uuid",
    "text",
    "date",
    "datetime",
    "timestamp",
    "generator",
    "coroutine",
    "module",
    "type",
    "array",
    "Array",
    "Date",
    "Promise",
];
/// Methods of HTTP, and other words that a route follows.
const ROUTED: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "route", "endpoint", "url", "uri",
    "URL", "URI",
];
/// Currencies of ISO 4217 that are in use in trade.
const CURRENCIES: &[&str] = &[
    "AED", "ARS", "AUD", "BDT", "BGN", "BHD", "BRL", "CAD", "CHF", "CLP", "CNY", "COP", "CZK",
    "DKK", "EGP", "EUR", "GBP", "HKD", "HUF", "IDR", "ILS", "INR", "ISK", "JPY", "KES", "KRW",
    "KWD", "KZT", "LKR", "MAD", "MXN", "MYR", "NGN", "NOK", "NZD", "PEN", "PHP", "PKR", "PLN",
    "QAR", "RMB", "RON", "RSD", "RUB", "SAR", "SEK", "SGD", "THB", "TND", "TRY", "TWD", "UAH",
    "USD", "UYU", "VND", "ZAR",
];
/// Units that stand apart from their number. One program says "890 MiB" and "1.2 GiB" of the same
/// thing.
const UNITS: &[&str] = &[
    "B",
    "kB",
    "KB",
    "MB",
    "GB",
    "TB",
    "KiB",
    "MiB",
    "GiB",
    "TiB",
    "byte",
    "bytes",
    "ns",
    "us",
    "µs",
    "μs",
    "ms",
    "s",
    "sec",
    "secs",
    "second",
    "seconds",
    "min",
    "mins",
    "minute",
    "minutes",
    "h",
    "hour",
    "hours",
    "day",
    "days",
    "week",
    "weeks",
    "msec",
    "msecs",
    "millis",
    "millisecond",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "percent",
];

pub(super) fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// True if the words before a quotation say that it is a name of the program's own.
pub(super) fn names([first, second, last]: [&str; 3]) -> bool {
    is_one_of(last, NAMED)
        || is_one_of(last, NAMING) && (is_one_of(second, NAMED) || is_one_of(first, NAMED))
        || matches!(last, "表" | "列" | "열")
        || !last.is_ascii() && NAMED_UNSPACED.iter().any(|noun| last.ends_with(noun))
}

/// True if such a name may look like a path: `module './orders'`.
pub(super) fn is_of_module(said: [&str; 3]) -> bool {
    said.iter().any(|word| is_one_of(word, OF_MODULES))
}

/// True if the text behind a quotation says that it is a name of the program's own.
pub(super) fn names_before(behind: &str) -> bool {
    let behind = behind.trim_start_matches(' ');
    let begins = |noun: &&&str| {
        behind.strip_prefix(**noun).is_some_and(|rest| {
            !noun.is_ascii() || !rest.starts_with(|c: char| c.is_alphanumeric())
        })
    };
    NAMED_BEHIND.iter().chain(NAMED_UNSPACED).any(|noun| begins(&noun))
}

/// True if the word before a quotation makes it a message.
pub(super) fn says(last: &str) -> bool {
    is_one_of(last, SAID)
}

/// True for the name of an exception: `KeyError`.
pub(super) fn is_exception(word: &str) -> bool {
    word.ends_with("Error") || word.ends_with("Exception")
}

/// True if the word, or the word behind its last `_`, labels a value.
pub(super) fn labels(last: &str) -> bool {
    is_one_of(last.rsplit('_').next().unwrap_or(last), LABELS)
}

/// True if such a word labels a name of a person, which may be any word.
pub(super) fn labels_person(last: &str) -> bool {
    matches!(last.to_ascii_lowercase().as_str(), "user" | "username" | "login" | "email")
}

pub(super) fn is_empty_value(word: &str) -> bool {
    is_one_of(word, EMPTY)
}

pub(super) fn is_of_language(word: &str) -> bool {
    LANGUAGE.contains(&word)
}

pub(super) fn leads_to_route(last: &str) -> bool {
    ROUTED.contains(&last)
}

pub(super) fn is_unit(word: &str) -> bool {
    UNITS.contains(&word.strip_suffix("/s").unwrap_or(word)) || is_currency(word)
}

pub(super) fn is_currency(word: &str) -> bool {
    word.len() == 3 && CURRENCIES.contains(&word)
}

pub(super) const fn is_currency_sign(c: char) -> bool {
    matches!(c, '€' | '£' | '¥' | '￥' | '₩' | '₹' | '₽' | '₺' | '₫' | '฿' | '₴' | '¢')
}

/// Returns the singular of a word behind a number: "5 attempts" and "1 attempt" say the same.
pub(super) fn singular(word: &str) -> Option<(&str, &str)> {
    if word.len() < 4 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    if let Some(stem) = word.strip_suffix("ies") {
        return Some((stem, "y"));
    }
    let long = ["ches", "shes", "sses", "xes"].iter().any(|end| word.ends_with(end));
    let stem = word.strip_suffix(if long { "es" } else { "s" })?;
    (!stem.ends_with(['s', 'u', 'i']) || long).then_some((stem, ""))
}
