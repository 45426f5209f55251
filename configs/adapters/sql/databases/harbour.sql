CREATE TABLE boats(id INTEGER PRIMARY KEY, name TEXT, kind TEXT, metres REAL, owner TEXT);
CREATE TABLE stays(boat_id INTEGER, berth TEXT, arrived TEXT, left_on TEXT, paid REAL);
INSERT INTO boats VALUES
  (1,'Alba','sail',9.2,'Nora'),
  (2,'Brise','motor',6.5,'Paul'),
  (3,'Cygne','sail',12,'Nora'),
  (4,'Dune','motor',8,NULL),
  (5,'Etoile','sail',7.4,'Sami');
INSERT INTO stays VALUES
  (1,'A1','2024-07-01','2024-07-05',80),
  (1,'B2','2024-08-10',NULL,0),
  (2,'A1','2024-07-06','2024-07-07',20),
  (3,'C3','2024-07-02','2024-07-30',410),
  (5,'B2','2024-07-15','2024-07-16',18);
