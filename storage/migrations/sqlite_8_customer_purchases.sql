CREATE TABLE customer_purchases (
    customer_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    purchase_name TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    date_created TEXT NOT NULL,
    last_updated TEXT,
    PRIMARY KEY (customer_id, id)
) WITHOUT ROWID;
INSERT INTO customer_purchases
SELECT customer_id, id, purchase_name, quantity, date_created, last_updated
FROM purchases ORDER BY customer_id, id;
CREATE TABLE customer_purchases_end (last INTEGER NOT NULL);
INSERT INTO customer_purchases_end SELECT coalesce(max(id), 0) FROM purchases;
CREATE TRIGGER purchases_update AFTER UPDATE ON purchases BEGIN
    UPDATE customer_purchases
    SET purchase_name = new.purchase_name, quantity = new.quantity,
        last_updated = new.last_updated
    WHERE customer_id = new.customer_id AND id = new.id;
END;
CREATE TRIGGER purchases_delete AFTER DELETE ON purchases BEGIN
    DELETE FROM customer_purchases
    WHERE customer_id = old.customer_id AND id = old.id;
END;
