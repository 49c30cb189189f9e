// The two measured routes with net/http, database/sql and go-sqlite3, written as their
// documentation teaches it: one pool of connections, prepared statements, json.Decoder.
package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-sqlite3"
)

const source = "file:db.sqlite3?_journal_mode=WAL&_synchronous=FULL&_foreign_keys=on" +
	"&_busy_timeout=5000"

const tables = `
CREATE TABLE IF NOT EXISTS customer (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL,
	address TEXT,
	date_created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS purchases (
	id INTEGER PRIMARY KEY,
	purchase_name TEXT NOT NULL,
	quantity INTEGER NOT NULL,
	customer_id INTEGER NOT NULL REFERENCES customer (id),
	date_created TEXT NOT NULL,
	last_updated TEXT
);
CREATE INDEX IF NOT EXISTS purchases_customer_id ON purchases (customer_id);`

type listed struct {
	PurchaseID    int64   `json:"purchase_id"`
	PurchaseName  string  `json:"purchase_name"`
	Quantity      int64   `json:"quantity"`
	PurchasedOn   string  `json:"purchased_on"`
	LastUpdatedOn *string `json:"last_updated_on"`
	CustomerID    string  `json:"customer_id"`
}

type newPurchase struct {
	PurchaseName string `json:"purchase_name"`
	Quantity     int64  `json:"quantity"`
}

type added struct {
	ID           int64  `json:"id"`
	PurchaseName string `json:"purchase_name"`
	Quantity     int64  `json:"quantity"`
	CustomerID   string `json:"customer_id"`
	PurchasedOn  string `json:"purchased_on"`
}

type reply struct {
	Status string `json:"status"`
	Data   any    `json:"data,omitempty"`
}

type server struct {
	find, list, insert *sql.Stmt
}

func open() *sql.DB {
	db, err := sql.Open("sqlite3", source)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func prepare(db *sql.DB, query string) *sql.Stmt {
	statement, err := db.Prepare(query)
	if err != nil {
		log.Fatal(err)
	}
	return statement
}

func write(w http.ResponseWriter, status int, body reply) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Print(err)
	}
}

func fail(w http.ResponseWriter, err error) {
	log.Print(err)
	write(w, http.StatusInternalServerError, reply{Status: "Something went wrong."})
}

func (s *server) purchases(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimPrefix(r.URL.Path, "/api/v1/purchase/")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		write(w, http.StatusNotFound, reply{Status: "There is no such customer."})
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.listPurchases(w, r, id)
	case http.MethodPost:
		s.addPurchase(w, r, id)
	default:
		write(w, http.StatusMethodNotAllowed, reply{Status: "Not with this method."})
	}
}

func (s *server) listPurchases(w http.ResponseWriter, r *http.Request, id int64) {
	var found int64
	err := s.find.QueryRowContext(r.Context(), id).Scan(&found)
	if errors.Is(err, sql.ErrNoRows) {
		write(w, http.StatusNotFound, reply{Status: "There is no such customer."})
		return
	} else if err != nil {
		fail(w, err)
		return
	}
	rows, err := s.list.QueryContext(r.Context(), id)
	if err != nil {
		fail(w, err)
		return
	}
	defer rows.Close()
	data := []listed{}
	for rows.Next() {
		row := listed{CustomerID: text(id)}
		err := rows.Scan(
			&row.PurchaseID, &row.PurchaseName, &row.Quantity,
			&row.PurchasedOn, &row.LastUpdatedOn,
		)
		if err != nil {
			fail(w, err)
			return
		}
		data = append(data, row)
	}
	if err := rows.Err(); err != nil {
		fail(w, err)
		return
	}
	write(w, http.StatusOK, reply{"ok", data})
}

func (s *server) addPurchase(w http.ResponseWriter, r *http.Request, id int64) {
	var body newPurchase
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<18))
	decoder.DisallowUnknownFields()
	length := 0
	err := decoder.Decode(&body)
	if err == nil {
		length = utf8.RuneCountInString(body.PurchaseName)
	}
	if err != nil || length > 200 || strings.TrimSpace(body.PurchaseName) == "" ||
		body.Quantity < 1 || body.Quantity > math.MaxInt32 {
		write(w, http.StatusUnprocessableEntity, reply{Status: "The body is not valid."})
		return
	}
	now := time.Now().UTC()
	result, err := s.insert.ExecContext(
		r.Context(), body.PurchaseName, body.Quantity, id,
		now.Format("2006-01-02 15:04:05.000000+00:00"),
	)
	var refused sqlite3.Error
	if errors.As(err, &refused) && refused.Code == sqlite3.ErrConstraint {
		write(w, http.StatusNotFound, reply{Status: "There is no such customer."})
		return
	} else if err != nil {
		fail(w, err)
		return
	}
	number, err := result.LastInsertId()
	if err != nil {
		fail(w, err)
		return
	}
	write(w, http.StatusCreated, reply{"ok", added{
		number, body.PurchaseName, body.Quantity, text(id),
		now.Format("Jan 02 2006 15:04:05"),
	}})
}

func text(id int64) string {
	return strconv.FormatInt(id, 10)
}

func main() {
	reader, writer := open(), open()
	writer.SetMaxOpenConns(1) // writers would only wait for one another, and by sleeping
	reader.SetMaxOpenConns(8)
	reader.SetMaxIdleConns(8) // by itself the pool keeps two, and opens others anew
	if _, err := writer.Exec(tables); err != nil {
		log.Fatal(err)
	}
	s := &server{
		prepare(reader, "SELECT id FROM customer WHERE id = ?"),
		prepare(reader, `SELECT id, purchase_name, quantity, date_created, last_updated
			FROM purchases WHERE customer_id = ? ORDER BY id`),
		prepare(writer, `INSERT INTO purchases
			(purchase_name, quantity, customer_id, date_created) VALUES (?, ?, ?, ?)`),
	}
	http.HandleFunc("/api/v1/purchase/", s.purchases)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
