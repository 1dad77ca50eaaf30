//! `#[derive(ShmSafe)]`: checks a struct field by field, so that the whole may live in shared
//! memory. Use it through `multiprocess_core::ShmSafe`, which documents the contract.

use proc_macro::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, Fields, Member, Path, parse_macro_input, parse_quote};

/// Implements `ShmSafe` for a `repr(C)` or `repr(transparent)` struct of `ShmSafe` fields.
///
/// The layout hash covers the struct's name, its size and alignment, and for each field its
/// name, its offset and its own layout hash. Enums and unions are refused: a peer could write a
/// discriminant that does not exist.
///
/// A crate that renames or re-exports `multiprocess-core` says where it is:
/// `#[shm_safe(crate = path::to::core)]`.
#[proc_macro_derive(ShmSafe, attributes(shm_safe))]
pub fn derive_shm_safe(input: TokenStream) -> TokenStream {
    derive(input, parse_quote!(::multiprocess_core))
}

/// The same for users of the facade crate, `multiprocess`, which have no `multiprocess-core`.
#[proc_macro_derive(FacadeShmSafe, attributes(shm_safe))]
pub fn derive_shm_safe_of_facade(input: TokenStream) -> TokenStream {
    derive(input, parse_quote!(::multiprocess))
}

fn derive(input: TokenStream, home: Path) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    named_home(&input)
        .and_then(|named| expand(&input, &named.unwrap_or(home)))
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// The path in `#[shm_safe(crate = path)]`.
fn named_home(input: &DeriveInput) -> syn::Result<Option<Path>> {
    let mut home = None;
    for attr in input.attrs.iter().filter(|a| a.path().is_ident("shm_safe")) {
        attr.parse_nested_meta(|meta| {
            if !meta.path.is_ident("crate") {
                return Err(meta.error("the only option is `crate = path`"));
            }
            home = Some(meta.value()?.call(Path::parse_mod_style)?);
            Ok(())
        })?;
    }
    Ok(home)
}

fn expand(input: &DeriveInput, home: &Path) -> syn::Result<proc_macro2::TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "ShmSafe can be derived for structs only: a peer process could write an enum \
             discriminant that does not exist",
        ));
    };
    require_fixed_layout(input)?;
    let (name, text) = (&input.ident, input.ident.to_string());
    let members: Vec<_> = match &data.fields {
        Fields::Unit => Vec::new(),
        fields => fields.members().collect(),
    };
    let member_names: Vec<_> = members
        .iter()
        .map(|member| match member {
            Member::Named(name) => name.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        })
        .collect();
    let types: Vec<_> = data.fields.iter().map(|field| &field.ty).collect();
    let mut generics = input.generics.clone();
    let predicates = &mut generics.make_where_clause().predicates;
    for ty in &types {
        predicates.push(parse_quote!(#ty: #home::ShmSafe));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        // SAFETY: the macro saw `repr(C)` or `repr(transparent)`; the where clause demands
        // `ShmSafe` of every field, so all bit patterns are valid and nothing is local to a
        // process; `needs_drop` is refused below.
        unsafe impl #impl_generics #home::ShmSafe for #name #type_generics #where_clause {
            const LAYOUT: #home::LayoutHash = {
                assert!(
                    !::core::mem::needs_drop::<Self>(),
                    "a ShmSafe type must not need Drop: its bytes go away with the mapping"
                );
                #home::LayoutHash::of_type::<Self>(#text)
                    #(
                        .mix_str(#member_names)
                        .mix(::core::mem::offset_of!(Self, #members) as u64)
                        .mix(<#types as #home::ShmSafe>::LAYOUT.bits())
                    )*
            };

            unsafe fn placed(&self) {
                // SAFETY: the caller's word holds for every part.
                #(unsafe { #home::ShmSafe::placed(&self.#members) };)*
            }

            fn may_unmap(&self) -> bool {
                true #(&& #home::ShmSafe::may_unmap(&self.#members))*
            }
        }
    })
}

fn require_fixed_layout(input: &DeriveInput) -> syn::Result<()> {
    let mut fixed = false;
    for attr in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        attr.parse_nested_meta(|meta| {
            fixed |= meta.path.is_ident("C") || meta.path.is_ident("transparent");
            if meta.path.is_ident("packed") {
                return Err(meta.error("atomics in a packed struct would not be aligned"));
            }
            // `align(N)` carries an argument that must be consumed.
            if meta.input.peek(syn::token::Paren) {
                let content;
                syn::parenthesized!(content in meta.input);
                content.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        })?;
    }
    if fixed {
        return Ok(());
    }
    Err(Error::new_spanned(
        &input.ident,
        "ShmSafe needs #[repr(C)]: Rust's own layout may differ between two builds",
    ))
}
