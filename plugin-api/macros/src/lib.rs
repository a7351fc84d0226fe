//! `#[config]`: one attribute in place of a derive line and three attribute lines that are easy to get wrong.
//!
//! It reads just enough tokens to tell a struct from an enum, so plugins need neither syn nor quote. Use it as `solstice_plugin_api::config`.

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Makes a struct or an enum a configuration type: (de)serialisable, with a JSON schema that carries its doc comments.
///
/// A struct takes missing fields from its `Default` and refuses unknown ones. Ranges are written as `#[schemars(range(min = 1, max = 4096))]` and are
/// enforced. Nested types carry `#[config]` as well. What the author derives beyond `Clone, Debug, Serialize, Deserialize, JsonSchema` stays theirs.
#[proc_macro_attribute]
pub fn config(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error("`#[config]` takes no arguments");
    }
    let serde_rules = match shape(item.clone()) {
        Some(Shape::NamedStruct) => "default, deny_unknown_fields, ",
        Some(Shape::OtherStruct) => "",
        Some(Shape::Enum) => "deny_unknown_fields, ",
        None => return error("`#[config]` stands on a struct or an enum"),
    };
    let head = format!(
        r#"#[derive(
            ::core::clone::Clone, ::core::fmt::Debug,
            ::solstice_plugin_api::__private::serde::Serialize,
            ::solstice_plugin_api::__private::serde::Deserialize,
            ::solstice_plugin_api::__private::schemars::JsonSchema,
        )]
        #[serde({serde_rules}crate = "::solstice_plugin_api::__private::serde")]
        #[schemars(crate = "::solstice_plugin_api::__private::schemars")]"#
    );
    let mut output: TokenStream = head.parse().expect("the attributes are valid Rust");
    output.extend(item);
    output
}

enum Shape {
    NamedStruct,
    OtherStruct,
    Enum,
}

fn shape(item: TokenStream) -> Option<Shape> {
    let mut is_struct = false;
    for token in item {
        match token {
            TokenTree::Ident(word) if word.to_string() == "enum" => return Some(Shape::Enum),
            TokenTree::Ident(word) if word.to_string() == "struct" => is_struct = true,
            // Groups before the keyword are attributes and `pub(crate)`.
            TokenTree::Group(group) if is_struct => {
                let named = group.delimiter() == Delimiter::Brace;
                return Some(if named { Shape::NamedStruct } else { Shape::OtherStruct });
            }
            _ => {}
        }
    }
    is_struct.then_some(Shape::OtherStruct)
}

fn error(message: &str) -> TokenStream {
    format!("::core::compile_error!({message:?});").parse().expect("a macro call is valid Rust")
}
