CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT, city TEXT, email TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INTEGER, day TEXT, total REAL, status TEXT);
INSERT INTO customers VALUES
  (1,'Ines','Lyon','ines@a.fr'),
  (2,'Marc','Paris',NULL),
  (3,'Oda','Lyon','oda@b.no'),
  (4,'Pia','Nice','pia@a.fr'),
  (5,'Raj','Paris','raj@c.in');
INSERT INTO orders VALUES
  (1,1,'2024-01-05',40.5,'paid'),
  (2,1,'2024-02-11',120,'paid'),
  (3,2,'2024-02-12',15,'cancelled'),
  (4,3,'2024-03-01',99.9,'open'),
  (5,5,'2024-03-03',250,'paid'),
  (6,3,'2024-03-09',60,'paid'),
  (7,5,'2024-04-02',12,'open');
