//! Who asks, and what he may do.

pub mod rbac;

use std::{collections::HashMap, fmt, sync::Mutex};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum User {
    /// May do everything.
    Admin,
    /// What the namespace's role bindings give it.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The bearer tokens given out so far.
#[derive(Debug)]
pub struct Tokens {
    admin: String,
    /// Service accounts by their token.
    given: Mutex<HashMap<String, User>>,
}

// === impl User ===

impl User {
    /// The user of a service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The user of that name, as [`fmt::Display`] shows it.
    pub fn named(name: &str) -> Self {
        match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => Self::service_account(namespace, name),
            None if name == Self::Admin.to_string() => Self::Admin,
            // Nobody has it, and nothing is bound to it.
            None => Self::service_account("", name),
        }
    }

    /// The groups it is in.
    pub fn groups(&self) -> Vec<String> {
        match self {
            Self::Admin => vec!["system:masters".into(), "system:authenticated".into()],
            Self::ServiceAccount { namespace, .. } => vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ],
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("kubernetes-admin"),
            Self::ServiceAccount { namespace, name } => write!(f, "system:serviceaccount:{namespace}:{name}"),
        }
    }
}

// === impl Tokens ===

impl Tokens {
    /// Nobody but the admin has one.
    pub fn new() -> Self {
        Self { admin: format!("admin.{}", crate::identity::uid()), given: Mutex::default() }
    }

    /// A user's token.
    pub fn token(&self, user: &User) -> String {
        if *user == User::Admin {
            return self.admin.clone();
        }
        let mut given = self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((token, _)) = given.iter().find(|(_, known)| *known == user) {
            return token.clone();
        }
        let token = format!("sa.{}", crate::identity::uid());
        given.insert(token.clone(), user.clone());
        token
    }

    /// Whose token it is.
    pub fn user(&self, token: &str) -> Option<User> {
        if token == self.admin {
            return Some(User::Admin);
        }
        self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(token).cloned()
    }
}
