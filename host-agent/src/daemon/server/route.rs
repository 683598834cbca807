//! Routes of the local API. Unknown paths and parameters are refused, so that a mistake does not silently become a default.

use hyper::Method;

use crate::daemon::api::{Code, Refusal, VERSION};
use crate::text::plain;

/// A valid request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    About,
    Watch,
    List,
    Show(String),
    Act {
        name: String,
        action: Action,
        wait: bool,
    },
    Update {
        name: String,
        wait: bool,
    },
    Rollback {
        name: String,
        drain_first: bool,
        wait: bool,
    },
    Logs {
        name: String,
        follow: bool,
    },
    Events {
        since: u64,
        follow: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Restart,
}

/// Returns the route of a request, or why there is none.
pub(super) fn find(method: &Method, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    let unknown = || {
        let message = format!(
            "there is no {}: GET /{VERSION} says what this is",
            plain(path, 100)
        );
        Refusal::new(Code::UnknownPath, message)
    };
    let mut query = Query::parse(query)?;
    let route = match &parts(path)[..] {
        [] => Route::About,
        ["watch"] => Route::Watch,
        ["appliances"] => Route::List,
        ["appliances", name] => Route::Show((*name).to_owned()),
        ["appliances", name, "logs"] => Route::Logs {
            name: (*name).to_owned(),
            follow: query.flag("follow")?,
        },
        ["appliances", name, "update"] => Route::Update {
            name: (*name).to_owned(),
            wait: query.flag("wait")?,
        },
        ["appliances", name, "rollback"] => Route::Rollback {
            name: (*name).to_owned(),
            drain_first: query.flag("drain_first")?,
            wait: query.flag("wait")?,
        },
        ["appliances", name, verb] => Route::Act {
            name: (*name).to_owned(),
            action: match *verb {
                "start" => Action::Start,
                "stop" => Action::Stop,
                "restart" => Action::Restart,
                _ => return Err(unknown()),
            },
            wait: query.flag("wait")?,
        },
        ["events"] => Route::Events {
            since: query.number("since")?,
            follow: query.flag("follow")?,
        },
        _ => return Err(unknown()),
    };
    let taken = self::method(path);
    if method.as_str() != taken {
        let message = format!("{} is asked with {taken}", plain(path, 100));
        return Err(Refusal::new(Code::WrongMethod, message));
    }
    query.end()?;
    Ok(route)
}

/// The method that a path takes.
pub(super) fn method(path: &str) -> &'static str {
    match parts(path)[..] {
        [
            "appliances",
            _,
            "start" | "stop" | "restart" | "update" | "rollback",
        ] => "POST",
        _ => "GET",
    }
}

/// The components after the version. A path without the version gets one that matches no route.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = path.split('/');
    match (parts.next(), parts.next()) {
        (Some(""), Some(VERSION)) => parts.collect(),
        _ => vec![""],
    }
}

/// Parameters of a query that have not been taken yet.
struct Query<'q>(Vec<(&'q str, &'q str)>);

impl<'q> Query<'q> {
    fn parse(query: Option<&'q str>) -> Result<Self, Refusal> {
        let pairs = query.unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty());
        let pairs: Vec<_> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        for (index, (name, _)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(other, _)| other == name) {
                let message = format!("{:?} is given twice", plain(name, 100));
                return Err(Refusal::new(Code::BadParameter, message));
            }
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<&'q str> {
        let index = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(bad(name, other, "true or false")),
        }
    }

    fn number(&mut self, name: &str) -> Result<u64, Refusal> {
        let Some(text) = self.take(name) else {
            return Ok(0);
        };
        text.parse().map_err(|_| bad(name, text, "a number"))
    }

    fn end(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::new(
                Code::UnknownParameter,
                format!("{:?} is no parameter of this path", plain(name, 100)),
            )),
        }
    }
}

fn bad(name: &str, found: &str, allowed: &str) -> Refusal {
    let message = format!("{name:?} is {:?}; allowed: {allowed}", plain(found, 100));
    Refusal::new(Code::BadParameter, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(method: Method, path: &str, query: Option<&str>) -> Code {
        find(&method, path, query).unwrap_err().error.code
    }

    #[test]
    fn every_path_has_its_method_and_parameters() {
        let get = |path, query| find(&Method::GET, path, query).unwrap();
        assert_eq!(get("/v1", None), Route::About);
        assert_eq!(get("/v1/watch", None), Route::Watch);
        assert_eq!(get("/v1/appliances", Some("")), Route::List);
        assert_eq!(get("/v1/appliances/a", None), Route::Show("a".into()));
        let (since, follow) = (7, true);
        assert_eq!(
            get("/v1/events", Some("follow=true&since=7")),
            Route::Events { since, follow }
        );
        let name = "a".to_owned();
        assert_eq!(
            get("/v1/appliances/a/logs", None),
            Route::Logs {
                name: name.clone(),
                follow: false
            }
        );
        for (verb, action) in [
            ("start", Action::Start),
            ("stop", Action::Stop),
            ("restart", Action::Restart),
        ] {
            let path = format!("/v1/appliances/a/{verb}");
            let found = find(&Method::POST, &path, Some("wait=true")).unwrap();
            let (name, wait) = (name.clone(), true);
            assert_eq!(found, Route::Act { name, action, wait });
            assert_eq!(code(Method::GET, &path, None), Code::WrongMethod);
            assert_eq!(method(&path), "POST");
        }
    }

    #[test]
    fn updates_and_rollbacks_are_posted() {
        let post = |path, query| find(&Method::POST, path, query).unwrap();
        let (name, wait) = ("a".to_owned(), true);
        let found = post("/v1/appliances/a/update", Some("wait=true"));
        assert_eq!(found, Route::Update { name, wait });
        let rollback = Route::Rollback {
            name: "a".into(),
            drain_first: true,
            wait: false,
        };
        let found = post("/v1/appliances/a/rollback", Some("drain_first=true"));
        assert_eq!(found, rollback);
        for verb in ["update", "rollback"] {
            let path = format!("/v1/appliances/a/{verb}");
            assert_eq!(code(Method::GET, &path, None), Code::WrongMethod);
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_code() {
        for path in [
            "/",
            "/v2",
            "/v1/",
            "/v1/x",
            "/v1/appliances/a/kill",
            "/v1/appliances/a/b/c",
            "v1",
        ] {
            assert_eq!(code(Method::GET, path, None), Code::UnknownPath, "{path}");
        }
        assert_eq!(code(Method::POST, "/v1", None), Code::WrongMethod);
        let events = |query| find(&Method::GET, "/v1/events", Some(query)).unwrap_err();
        assert_eq!(events("sinec=1").error.code, Code::UnknownParameter);
        assert_eq!(
            events("sinec=1").error.message,
            "\"sinec\" is no parameter of this path"
        );
        assert_eq!(
            events("since=-1").error.message,
            "\"since\" is \"-1\"; allowed: a number"
        );
        assert_eq!(events("follow=yes").error.code, Code::BadParameter);
        assert_eq!(
            events("since=1&since=2").error.message,
            "\"since\" is given twice"
        );
    }
}
