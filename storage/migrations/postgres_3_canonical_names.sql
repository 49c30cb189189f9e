-- The names themselves are folded anew by postgres_schema._fold_names: SQL cannot.
COMMENT ON COLUMN customer.name_folded IS 'the name, caseless and canonical (Unicode D145)';
