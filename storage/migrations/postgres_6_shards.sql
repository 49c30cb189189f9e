-- Every key holds the customer, for the tables to be spread over servers by it.
ALTER TABLE purchases DROP CONSTRAINT purchases_pkey, ADD PRIMARY KEY (customer_id, id);
CREATE INDEX purchases_id ON purchases (id);
DROP INDEX purchases_customer_id;
ALTER TABLE history DROP CONSTRAINT history_pkey, ADD PRIMARY KEY (id, customer_id);
DROP INDEX history_undoes;
CREATE UNIQUE INDEX history_undoes ON history (undoes, customer_id) WHERE undoes IS NOT NULL;
-- What is written most stands in functions: one round trip, and each of their statements
-- asks one shard. An INSERT … SELECT would ask all.
-- queries.dialects.horizon reads the keys of these locks.
CREATE FUNCTION lock_ids(ids regclass) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(
        ((ids::oid::bigint & 65535) << 48) | coalesce(pg_sequence_last_value(ids), 0))
$$;
CREATE FUNCTION record_change(
    at_time timestamptz, by text, what text, owner bigint, purchase bigint, image text,
    OUT number bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_ids('history_id_seq');
    INSERT INTO history (at, caller, action, customer_id, purchase_id, before)
    VALUES (at_time, nullif(by, ''), what, owner, purchase, image) RETURNING id INTO number;
END
$$;
CREATE FUNCTION add_customer(
    new_name text, new_address text, created timestamptz, folded text,
    at_time timestamptz, by text, OUT customer_id bigint, OUT number bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_ids('customer_id_seq');
    INSERT INTO customer (name, address, date_created, name_folded)
    VALUES (new_name, new_address, created, folded) RETURNING id INTO customer_id;
    number := record_change(at_time, by, 'customer.created', customer_id, NULL, NULL);
END
$$;
-- The owner's lock waits for a transaction that deletes the customer, and then finds none.
CREATE FUNCTION add_purchase(
    new_name text, new_quantity bigint, bought timestamptz, owner bigint,
    at_time timestamptz, by text, OUT purchase_id bigint, OUT number bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM customer WHERE id = owner AND deleted IS NULL FOR KEY SHARE;
    IF FOUND THEN
        PERFORM lock_ids('purchases_id_seq'), lock_ids('history_id_seq');
        INSERT INTO purchases (purchase_name, quantity, date_created, customer_id)
        VALUES (new_name, new_quantity, bought, owner) RETURNING id INTO purchase_id;
        INSERT INTO history AS h (at, caller, action, customer_id, purchase_id)
        VALUES (at_time, nullif(by, ''), 'purchase.added', owner, add_purchase.purchase_id)
        RETURNING h.id INTO number;
    END IF;
END
$$;
