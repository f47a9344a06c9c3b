//! Records built only as far as a request needs them: lists of thousands of objects stay quick.

use serde_json::{Map, Value};

use super::call::Call;
use super::route::Shape;

/// The top-level members a request needs: what it returns, filters by or orders by.
#[derive(Debug)]
pub(crate) struct Wants {
    /// `None`: everything.
    members: Option<Vec<String>>,
}

/// A record in the making.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    wants: &'a Wants,
    members: Map<String, Value>,
}

impl Call {
    /// What the records of this request must hold.
    pub(crate) fn wants(&self) -> Wants {
        let single = self.route.shape == Shape::Item;
        let fields = self.params.fields.as_deref();
        let everything = fields.map_or(single, |fields| fields.contains('*'));
        if everything {
            return Wants { members: None };
        }
        let keys = self.route.resource.rows().iter().filter(|field| field.is_key()).map(|field| field.path);
        let filters = self.params.filters.iter().map(|filter| filter.path.as_str());
        let order = self.params.order_by.iter().map(|(field, _)| field.as_str());
        let scope = self.svm.iter().map(|_| "svm");
        let all = keys.chain(fields.unwrap_or_default().split(',')).chain(filters).chain(order).chain(scope);
        let top = |path: &str| path.trim().split('.').next().unwrap_or_default().to_owned();
        Wants { members: Some(all.map(top).collect()) }
    }
}

impl Wants {
    /// Whether a top-level member is needed.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.as_ref().is_none_or(|members| members.iter().any(|it| it == name))
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(wants: &'a Wants) -> Self {
        Self { wants, members: Map::new() }
    }

    /// Adds a member, if it is wanted.
    pub(crate) fn set<V: Into<Value>>(&mut self, name: &str, value: impl FnOnce() -> V) -> &mut Self {
        if self.wants.has(name) {
            self.members.insert(name.to_owned(), value().into());
        }
        self
    }

    /// The record so far.
    pub(crate) fn finish(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.members))
    }
}
