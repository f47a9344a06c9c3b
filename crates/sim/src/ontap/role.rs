//! REST roles: which paths an account may use, and how. Read from the commands that make one on an array.

use std::str::FromStr;

use http::Method;

/// A REST role. What no privilege names is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    privileges: Vec<Privilege>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Privilege {
    path: String,
    access: Access,
}

/// What a privilege allows below its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    None,
    ReadOnly,
    ReadCreate,
    ReadModify,
    ReadCreateModify,
    All,
}

impl Access {
    fn allows(self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => self != Self::None,
            Method::POST => matches!(self, Self::ReadCreate | Self::ReadCreateModify | Self::All),
            Method::PATCH => matches!(self, Self::ReadModify | Self::ReadCreateModify | Self::All),
            _ => self == Self::All,
        }
    }
}

impl FromStr for Access {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Ok(match word {
            "none" => Self::None,
            "readonly" => Self::ReadOnly,
            "read_create" => Self::ReadCreate,
            "read_modify" => Self::ReadModify,
            "read_create_modify" => Self::ReadCreateModify,
            "all" => Self::All,
            _ => return Err(()),
        })
    }
}

impl Role {
    /// Whether the role allows this. Of the privileges whose path holds `path`, the longest decides; `*` stands for one
    /// segment.
    pub(crate) fn allows(&self, method: &Method, path: &str) -> bool {
        let holding = self.privileges.iter().filter(|it| holds(&it.path, path));
        holding.max_by_key(|it| it.path.len()).is_some_and(|it| it.access.allows(method))
    }

    /// The paths it names, in order.
    pub fn paths(&self) -> Vec<&str> {
        self.privileges.iter().map(|it| it.path.as_str()).collect()
    }

    /// The same role without the privilege at `path`.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        self.privileges.retain(|it| it.path != path);
        self
    }

    /// The same role that may only read at `path`.
    #[must_use]
    pub fn reading(mut self, path: &str) -> Self {
        for it in self.privileges.iter_mut().filter(|it| it.path == path) {
            it.access = Access::ReadOnly;
        }
        self
    }
}

fn holds(outer: &str, inner: &str) -> bool {
    let mut inner = inner.split('/').filter(|it| !it.is_empty());
    outer
        .split('/')
        .filter(|it| !it.is_empty())
        .all(|part| inner.next().is_some_and(|it| part == "*" || part == it))
}

/// Why a text makes no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is neither a comment nor \"security login rest-role create\" with -api and -access")]
pub struct BadRole {
    line: usize,
}

/// From the commands of ONTAP's shell: `security login rest-role create -vserver V -role R -api PATH -access LEVEL`, one a
/// line. Empty lines, lines that begin with `#`, and other `security login` commands say nothing about the role.
impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        let mut role = Self::default();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') || text.starts_with("security login create ") {
                continue;
            }
            let bad = || BadRole { line };
            let words = text.strip_prefix("security login rest-role create ").ok_or_else(bad)?;
            let words: Vec<&str> = words.split_whitespace().collect();
            let option =
                |name: &str| words.chunks(2).find(|it| it[0] == name).and_then(|it| it.get(1)).copied();
            let path = option("-api").filter(|it| it.starts_with("/api/")).ok_or_else(bad)?;
            let access = option("-access").and_then(|it| it.parse().ok()).ok_or_else(bad)?;
            role.privileges.push(Privilege { path: path.to_owned(), access });
        }
        Ok(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_decides() {
        let role: Role = "# explained\n\
                          security login rest-role create -vserver c -role r -api /api/storage -access readonly\n\
                          security login rest-role create -vserver c -role r -api /api/storage/luns -access all\n\
                          security login rest-role create -role r -api /api/storage/volumes/*/snapshots -access read_create\n"
            .parse()
            .unwrap();
        for (method, path, allowed) in [
            (Method::GET, "/api/storage/volumes", true),
            (Method::POST, "/api/storage/volumes", false),
            (Method::DELETE, "/api/storage/luns/x", true),
            (Method::GET, "/api/storage/lunsx", true),
            (Method::POST, "/api/storage/volumes/1/snapshots", true),
            (Method::DELETE, "/api/storage/volumes/1/snapshots/2", false),
            (Method::GET, "/api/cluster", false),
        ] {
            assert_eq!(role.allows(&method, path), allowed, "{method} {path}");
        }
        assert!(!role.clone().reading("/api/storage/luns").allows(&Method::POST, "/api/storage/luns"));
        assert!(!role.without("/api/storage").allows(&Method::GET, "/api/storage/volumes"));
    }

    #[test]
    fn other_lines_are_refused_by_number() {
        for text in ["volume delete x", "security login rest-role create -api /api/cluster -access some"] {
            assert_eq!(format!("\n{text}").parse::<Role>(), Err(BadRole { line: 2 }), "{text}");
        }
    }
}
