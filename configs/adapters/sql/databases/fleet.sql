CREATE TABLE cars(plate TEXT PRIMARY KEY, model TEXT, km INTEGER, depot TEXT);
CREATE TABLE trips(id INTEGER PRIMARY KEY, plate TEXT, driver TEXT, start TEXT, km INTEGER);
CREATE TABLE repairs(id INTEGER PRIMARY KEY, plate TEXT, cost REAL, reason TEXT);
INSERT INTO cars VALUES
  ('AA-1','Zoe',42000,'Nord'),
  ('BB-2','Kangoo',120500,'Sud'),
  ('CC-3','Zoe',8000,'Nord'),
  ('DD-4','Master',99000,'Sud');
INSERT INTO trips VALUES
  (1,'AA-1','Gil','2024-03-01',120),
  (2,'BB-2','Hana','2024-03-01',45),
  (3,'AA-1','Hana','2024-03-02',60),
  (4,'DD-4','Ike','2024-03-05',300),
  (5,'BB-2','Gil','2024-03-06',20);
INSERT INTO repairs VALUES
  (1,'BB-2',340,'brakes'),
  (2,'DD-4',90,'tyre'),
  (3,'BB-2',60,'bulb');
