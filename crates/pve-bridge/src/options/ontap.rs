//! The options of an ONTAP storage.

use san_core::TransportKind;
use san_ontap::OntapConfig;

use super::parser::Parser;

/// The tenant and where its volumes go.
pub(super) fn config(parser: &mut Parser<'_>, transport: TransportKind) -> OntapConfig {
    OntapConfig { svm: named(parser, "svm"), aggregate: named(parser, "aggregate"), transport }
}

fn named(parser: &mut Parser<'_>, name: &'static str) -> String {
    let text = parser.required(name);
    parser.array_name(name, &text);
    text
}
