DROP INDEX purchases_customer_id;
CREATE INDEX purchases_customer_id ON purchases (
    customer_id, id, purchase_name, quantity, date_created, last_updated
);
