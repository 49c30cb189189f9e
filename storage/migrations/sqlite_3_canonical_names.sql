UPDATE customer SET name_folded = fold_name(name) WHERE name_folded <> fold_name(name);
